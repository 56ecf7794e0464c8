"""A trained model as a SavedModel: what each task does from texts to answers, in one graph."""
