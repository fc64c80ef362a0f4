"""The trained fast memory beside a frozen base model."""
