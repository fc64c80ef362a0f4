"""Research: training, evaluation and transfer. hope_runtime never imports it."""
