"""The steps as nodes of other people's pipelines, and the processes that the app runs them in."""
