"""Train a model of heads on images made from label maps; needs the extra ``[train]``.

Nothing else of the package imports this folder. ``README.md`` beside it has the recipe.
"""
