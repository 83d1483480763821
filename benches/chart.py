"""A bar chart as SVG, readable on light and on dark ground."""

import math

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.few { fill: #8c959f }
.many { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .few { fill: #6e7681 }
  .many { fill: #4493f8 }
}
"""


def bars(title, groups):
    """`groups` are names with the values at a smaller and at a larger number of connections."""
    values = [value for _, group in groups for value in group.values()]
    left, width, step = 180, 420, 46
    low, high = math.log(min(values) / 2), math.log(max(values))

    def length(value):
        return width * (math.log(value) - low) / (high - low)

    connections = list(groups[0][1])
    parts = [f'<text class="title" x="8" y="22">{title}</text>']
    for place, (kind, number) in enumerate(zip(("few", "many"), connections)):
        x = left + 150 * place
        parts.append(f'<rect class="{kind}" x="{x}" y="34" width="12" height="12"/>')
        parts.append(f'<text x="{x + 18}" y="45">{number} connections</text>')
    for row, (name, group) in enumerate(groups):
        y = 62 + step * row
        parts.append(f'<text x="{left - 10}" y="{y + 22}" text-anchor="end">{name}</text>')
        for place, (kind, value) in enumerate(zip(("few", "many"), group.values())):
            top = y + 17 * place
            parts.append(f'<rect class="{kind}" x="{left}" y="{top}" width="{length(value):.0f}" height="15" rx="2"/>')
            parts.append(
                f'<text x="{left + length(value) + 6:.0f}" y="{top + 12}">{value:.{1 if value < 100 else 0}f}</text>'
            )
    height = 62 + step * len(groups) + 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 {height}" width="680" height="{height}" role="img">'
        f"\n<title>{title}</title>\n<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )
