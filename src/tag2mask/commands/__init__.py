"""Commands that have a parser and handlers of their own; `tag2mask.cli` puts them together."""
