"""What a results folder tells people: gathered once as plain data, shown as a page, text or JSON.

Nothing is computed anew, and nothing but counts, metrics and settings is read: no id, no label, no
feature, no name of a column. Every string is taken for hostile until its renderer has escaped it,
since peers choose some of them.

| module | what is in it |
| --- | --- |
| `model` | the types of a report; its JSON has the same fields |
| `gather`, `figures`, `privacy` | a results folder as a report |
| `sources`, `kept` | files that may be missing, damaged, huge or another run's |
| `evaluation` | `evaluation.json`: what an evaluation of predictions found |
| `words` | what a number means, for people who do not train models |
| `charts` | lines and points as SVG paths |
| `render` | a report as HTML, Markdown, JSON, or a model card |
"""
