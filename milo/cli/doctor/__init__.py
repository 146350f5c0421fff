"""``milo doctor``: whether this host and its agent are ready for tasks, and what to do if not."""
