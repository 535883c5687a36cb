"""Reports what a results folder contains, as a page, as text or as JSON.

A report is gathered once as plain data. Nothing is computed again, and only counts, metrics and
settings are read: no id, label, feature or name of a column. Every string is considered hostile
until its renderer has escaped it, since peers choose some of the strings.

| module | content | | --- | --- | | `model` | the types of a report; its JSON has the same fields |
| `gather`, `figures`, `privacy` | the conversion of a results folder to a report | | `sources`,
`kept` | files that may be missing, damaged, huge or of another run | | `evaluation` |
`evaluation.json`, the results of an evaluation of predictions | | `words` | the meaning of numbers,
for people who do not train models | | `charts` | lines and points as SVG paths | | `render` | a
report as HTML, Markdown, JSON or a model card |
"""
