"""Transfer of knowledge between levels: the five modes of Nested Learning, section 3.3.

A level here is named parameters and a loss. Each mode has one place:

  direct, parametric       the slow block reads the fast one's weights or output   direct.py
                           (in serving: the base model under a session's terms, model/block.py)
  direct, non-parametric   the slow block reads the fast one's context             direct.py
                           (in serving: attention over the window, model/attention.py)
  backpropagation          one gradient flow, an update frequency each             flow.py
                           (in serving: the levels' boundaries, learning/)
  initialisation           a slow level learns where a fast one starts             initialisation.py
  generation               of weights (a hypernetwork) or of the optimiser's       generation.py
                           context (the gradients that it compresses)

level.py has what they share: a level that any update rule of optim/ may write.
"""
