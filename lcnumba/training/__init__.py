"""What happens between `fit` and a step."""
