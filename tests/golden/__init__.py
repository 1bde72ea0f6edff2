"""Scripts that say what the system does, step by step; `--bless` writes down what it does now."""
