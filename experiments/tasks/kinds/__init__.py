"""The kinds of task: texts with labels, words with tags, texts to be written."""
