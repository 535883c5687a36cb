"""The live page: what runs write into their results folders, shown in a browser while they go on.

It only reads, and it talks to browsers, never to parties. Every string of a results folder is taken
for hostile until the templates have escaped it. It knows no torch, and nothing of how parties
train. Its libraries (starlette, uvicorn: the extra `watch`) are loaded late.

| module | what is in it |
| --- | --- |
| `state` | a journal's records to what a run looks like now; pure |
| `tail` | a journal that grows |
| `runs` | which runs a results folder has |
| `run` | one run: its journal, its status and what was measured of leaks |
| `curves`, `timeline` | what is drawn |
| `fragments`, `compare` | the parts of a page, each as HTML |
| `guard` | who may ask: the token, the Host header, the headers of every answer |
| `app` | pages and server-sent events |
| `serve`, `beside` | the server, by itself or beside a run |
"""
