"""Published results, reproduced with the library's parts: one file for each paper."""
