"""The paper: one decoding loop, and the choices by which the methods differ.

The loop, once per forward pass, for every image of a batch at its own pace::

    while some image is not finished:
        1. schedule   which rows are active; how far each may draft and commit
        2. draft      fill each active row's window: carried drafts, then first drafts
        3. predict    one forward pass under one mask: target distributions p at all positions
        4. verify     accept drafts, row by row, up to the first rejection;
                      resample there; redraft what is behind it
        5. commit     write tokens, drafts and their distributions q

Read in this order:

- ``engine``: the loop. ``methods``: every decoder as a preset. ``config``: the choices.
- ``schedule``: where a row starts, how far it goes. ``mask``: who sees whom.
- ``drafts``: first drafts, and the input that starts a row.
- ``verify``, ``acceptance``, ``redraft``, ``commit``: when a draft is kept, what the others become.
- ``queries``, ``inputs``, ``shapes``: what one forward pass is fed. ``capture``, ``compiled``: how
  a GPU runs an iteration. ``grids``: models that write several grids, such as a preview first.
- ``grid``, ``cache``, ``state``, ``sampling``, ``noise``, ``trace``, ``model``, ``ordinary``: what
  the above stands on. ``released``: what the authors' released code does otherwise.

docs/method.md has the same with pictures, formulas and the glossary, which is the law for names.
"""
