"""Optimisers as associative memories of gradients (Nested Learning, section 4).

rule.py says what an update rule is: a pure pair of functions that a level uses as the f of Eq. 71
and that outer.py wraps as a torch.optim.Optimizer. registry.py has the rules by name:

  gd                gradient descent                             gradient_descent.py
  dgd               delta gradient descent; needs inputs
  momentum          value-less Hebbian memory                    momentum.py
  valued_momentum   ... with values P
  delta_momentum    ... written by the delta rule
  dmgd              an MLP as the memory                         deep_momentum.py
  elementwise       the optimal element-wise memory              adam.py
  adam              its running-mean form
  muon              orthogonalised momentum                      muon.py
  m3                ... at two frequencies
"""
