"""Hooks extend the loop; see ``base.Hook`` for the stages and ``build.build_train_hooks`` for what runs by default."""
