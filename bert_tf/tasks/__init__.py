"""What each task is: its files, its examples, its head, loss and metrics."""
