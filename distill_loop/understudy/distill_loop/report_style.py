"""How a night's page looks: one style sheet, inside the page, for screen and paper."""

STYLE = """
:root{--ink:#22333b;--new:#1d7874;--old:#b08968;--bad:#b3402e;--doubt:#a87b00;--line:#e7e2da}
*{box-sizing:border-box}
body{font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;color:var(--ink);
background:#faf8f5;max-width:74rem;margin:0 auto;padding:1.5rem}
header{border-left:.5rem solid var(--new);background:#fff;padding:1.1rem 1.4rem;border-radius:.4rem}
header.keep{border-color:var(--bad)}header.undecided{border-color:var(--doubt)}
header p{margin:.2rem 0}.night{color:#71808a;letter-spacing:.04em}
h1{font-size:1.7rem;line-height:1.25;margin:.1rem 0 .4rem}
h2{font-size:1.15rem;margin:0 0 .7rem}
.reasons{margin:.5rem 0 0;padding-left:1.1rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:.8rem;
margin:1rem 0}
.tile{background:#fff;border-radius:.4rem;padding:.8rem 1rem;display:flex;flex-direction:column}
.tile span{color:#71808a;font-size:.85rem}.tile b{font-size:1.6rem;font-weight:600}
.tile i{color:#71808a;font-size:.82rem;font-style:normal;min-height:1.3em}
section{background:#fff;border-radius:.4rem;padding:1.1rem 1.4rem;margin:1rem 0;overflow-x:auto}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(26rem,1fr));gap:1rem}
figure{margin:0}img{width:100%;height:auto}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.34rem .7rem .34rem 0;border-bottom:1px solid var(--line);
vertical-align:top}
th{color:#71808a;font-weight:500;font-size:.85rem}
.n{white-space:nowrap;font-variant-numeric:tabular-nums}
em{font-style:normal;font-size:.82rem;padding:.08rem .5rem;border-radius:1rem;white-space:nowrap;
background:#e3efee;color:var(--new)}
.fail em,em.broken{background:#f6e2de;color:var(--bad)}
.undecided em,em.both{background:#f5ecd2;color:var(--doubt)}
.labels{columns:3;padding-left:1.1rem}
.bar{display:inline-block;width:11rem;height:.6rem;background:#efece6;border-radius:.3rem;
overflow:hidden}
.bar span{display:block;height:100%;background:var(--old)}
footer{color:#71808a;font-size:.85rem;margin:1rem 0 2rem}
@media (max-width:40rem){.figures{grid-template-columns:1fr}body{padding:.7rem}}
@media print{body{background:#fff}section,.tile,header{break-inside:avoid}}
"""
