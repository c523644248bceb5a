"""The page of a report: its content, its cells and sentences, as HTML and as Markdown."""
