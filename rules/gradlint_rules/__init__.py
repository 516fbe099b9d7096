"""The built-in rule pack: one module per rule, named after its code; the docstring of its class is its page.

The numbering plan:

* ``GL1xx`` depth and path: how the gradient grows or shrinks on its way from the loss
* ``GL2xx`` initialisation: the variance of the weights
* ``GL3xx`` activation and normalisation
* ``GL4xx`` recurrence: what repeats in time
* ``GL5xx`` numeric range and singularities
* ``GL6xx`` the training script: clipping, weight decay, learning rate
* ``GL9xx`` limits of the analysis: what could not be judged

A code is never given to another rule, not even after its rule is gone. Other packs bring a prefix of their own.
"""

from __future__ import annotations
