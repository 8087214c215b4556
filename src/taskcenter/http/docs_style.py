"""The style sheet of `/docs`: the reader's own fonts, light or dark as the reader's system is."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--ink:#1b2231;--soft:#5a6577;--line:#e2e7ef;--paper:#fff;--side:#f7f9fc;--card:#fff;
--code:#eef2f8;--accent:#2457d6;--get:#0b7a4b;--post:#2457d6;--put:#9a5800;--delete:#b3261e;--mark:12%}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf2;--soft:#9aa5b8;--line:#262e3b;--paper:#0f131a;--side:#131923;
--card:#151b25;--code:#202938;--accent:#8ab0ff;--get:#5fd39b;--post:#8ab0ff;--put:#f0b45c;--delete:#ff8a80;--mark:18%}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:1rem}
@media(prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.6 system-ui,sans-serif;display:grid;
grid-template-columns:19rem minmax(0,1fr)}
aside{position:sticky;top:0;height:100vh;overflow-y:auto;background:var(--side);border-right:1px solid var(--line);
padding:1.75rem 1.25rem;font-size:.84rem;line-height:1.4}
.brand{font-size:1.15rem;font-weight:700;letter-spacing:-.01em;color:var(--ink)}
nav h2{margin:1.5rem 0 .35rem;font-size:.72rem;letter-spacing:.08em;text-transform:uppercase}
nav h2 a{color:var(--soft)}
nav ul{list-style:none;margin:0;padding:0}
nav li a{display:flex;gap:.55rem;padding:.2rem .4rem;margin:0 -.4rem;border-radius:6px;color:var(--ink)}
nav li a:hover{background:var(--code);text-decoration:none}
nav .method{width:2.1rem;flex:none;font-size:.64rem;line-height:1.18rem;text-align:right}
main{max-width:60rem;width:100%;margin:0 auto;padding:3rem 2.5rem 6rem}
h1{margin:0;font-size:2.2rem;line-height:1.2;letter-spacing:-.025em}
h1 small{font-size:.85rem;font-weight:500;letter-spacing:0;color:var(--soft);border:1px solid var(--line);
border-radius:99px;padding:.15rem .6rem;vertical-align:middle}
.lead{font-size:1.15rem;color:var(--soft);margin:.5rem 0 2rem}
h2{margin:3.5rem 0 .25rem;font-size:1.45rem;letter-spacing:-.015em}
h3{margin:2.25rem 0 .25rem;font-size:1.05rem}
h4{margin:1.4rem 0 .4rem;font-size:.74rem;letter-spacing:.08em;text-transform:uppercase;color:var(--soft)}
section>p{max-width:48rem}
a{color:var(--accent);text-decoration:none}
a:hover,a:focus-visible{text-decoration:underline}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px;border-radius:4px}
code{font:.86em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;background:var(--code);padding:.12em .34em;
border-radius:5px;overflow-wrap:anywhere;white-space:break-spaces}
details{margin:.6rem 0;border:1px solid var(--line);border-radius:10px;background:var(--card)}
details>div{padding:0 1.1rem;scroll-margin-top:4.5rem}
details[open]{padding-bottom:1.1rem;box-shadow:0 1px 2px #0001,0 8px 24px #0000000d}
details[open]>summary{border-bottom:1px solid var(--line);margin-bottom:.9rem;border-radius:10px 10px 0 0}
summary{display:flex;align-items:center;gap:.35rem .85rem;padding:.6rem 1.1rem;cursor:pointer;list-style:none}
summary::-webkit-details-marker{display:none}
summary::after{content:"";width:.45rem;height:.45rem;border:solid var(--soft);border-width:0 1.5px 1.5px 0;
transform:rotate(45deg) translate(-.1rem,-.1rem);flex:none}
details[open]>summary::after{transform:rotate(225deg)}
summary:hover{background:var(--side);border-radius:10px}
summary code{background:none;padding:0;font-size:.92rem}
.what{color:var(--soft);margin-left:auto;font-size:.92rem;text-align:right}
.method{font-weight:700;letter-spacing:.03em}
summary .method{min-width:4.6rem;font-size:.74rem;text-align:center;padding:.2rem .5rem;border-radius:6px;
background:color-mix(in srgb,currentColor var(--mark),transparent)}
.get{color:var(--get)}.post{color:var(--post)}.put{color:var(--put)}.delete{color:var(--delete)}
table{width:100%;border-collapse:collapse;font-size:.9rem;line-height:1.5}
td{padding:.5rem .9rem .5rem 0;border-top:1px solid var(--line);vertical-align:top}
tr:first-child td{border-top:0}
td:last-child{padding-right:0}
table.fields{table-layout:fixed}
.fields td:first-child{width:31%;overflow-wrap:anywhere}
.fields td:nth-child(2){width:20%;color:var(--soft)}
table.answers td:first-child{width:4.5rem}
table.answers td:last-child{text-align:right;white-space:nowrap}
small{color:var(--soft);font-size:.82em}
small.must{color:var(--delete)}
.example{display:block;margin-top:.15rem;color:var(--soft);font-size:.92em}
tr:target{background:var(--code)}
@media(max-width:64rem){body{display:block}
aside{position:static;height:auto;border-right:0;border-bottom:1px solid var(--line);padding:1rem 1.25rem}
nav ul{display:none}nav{display:flex;flex-wrap:wrap;gap:0 1.1rem}nav h2{margin:.6rem 0 0}
main{padding:2rem 1.25rem 4rem}}
@media(max-width:40rem){summary{flex-wrap:wrap}summary::after{display:none}
.what{margin-left:0;flex-basis:100%;text-align:left}
table.fields,table.fields tbody{display:block}.fields tr{display:block;border-top:1px solid var(--line);padding:.6rem 0}
.fields td,.fields td:first-child,.fields td:nth-child(2){display:block;width:auto;border:0;padding:.05rem 0}}
@media print{aside{display:none}body{display:block}details{break-inside:avoid}}
"""
