"""What each layer of an encoder has learned: measurements of frozen models, for any number of models at once."""
