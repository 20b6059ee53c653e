#!/usr/bin/env bash
# The picture of the demo in README.md, from what the demo shows at a terminal:
#
#   scripts/demo-svg.sh target/release/knockpipe >docs/demo.svg
#
# tests/suite/demo.rs fails if docs/demo.svg is of another demo, numbers aside.
set -euo pipefail
program=$1

shown=$(CLICOLOR_FORCE=1 NO_COLOR= "$program" demo)

# The rest is for readers who want to go on, and is in README.md already.
sed '/The same for real/,$d' <<<"$shown" | awk '
function escaped(text) {
    gsub(/&/, "\\&amp;", text)
    gsub(/</, "\\&lt;", text)
    gsub(/>/, "\\&gt;", text)
    return text
}

# Attributes of text after the escape sequence with this code.
function style(code, now) {
    if (code == 0) return ""
    if (code == 1) return now " font-weight=\"bold\""
    if (code == 2) return now " fill=\"#8b949e\""
    if (code == 31) return now " fill=\"#ff7b72\""
    if (code == 32) return now " fill=\"#56d364\""
    if (code == 36) return now " fill=\"#79c0ff\""
    return now
}

function part(text, now) {
    if (text == "") return ""
    if (now == "") return escaped(text)
    return "<tspan" now ">" escaped(text) "</tspan>"
}

# A line with its escape sequences as elements.
function line(rest,    made, now) {
    while (match(rest, /\033\[[0-9]+m/)) {
        made = made part(substr(rest, 1, RSTART - 1), now)
        now = style(substr(rest, RSTART + 2, RLENGTH - 3) + 0, now)
        rest = substr(rest, RSTART + RLENGTH)
    }
    return made part(rest, now)
}

{ lines[++count] = $0 }

END {
    while (count > 0 && lines[count] == "") count--
    height = 72 + count * 20
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 %d\"", height
    printf " width=\"720\" height=\"%d\" role=\"img\" aria-label=\"Output of knockpipe demo\">\n", height
    printf "<rect width=\"720\" height=\"%d\" rx=\"8\" fill=\"#0d1117\"/>\n", height
    print "<g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, monospace\""
    print " font-size=\"14\" fill=\"#e6edf3\" xml:space=\"preserve\" style=\"white-space: pre\">"
    print "<text x=\"20\" y=\"34\"><tspan fill=\"#8b949e\">$</tspan> knockpipe demo</text>"
    for (i = 1; i <= count; i++)
        if (lines[i] != "") printf "<text x=\"20\" y=\"%d\">%s</text>\n", 50 + i * 20, line(lines[i])
    print "</g>"
    print "</svg>"
}'
