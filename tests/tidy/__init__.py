"""The repository checks itself: sizes, names, marks, and documents that must follow the code."""
