"""The command line: parses, calls one function, prints. Nothing else of the package sees flags."""
