package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strings"
)

// panel is a bar chart of one column of one table.
type panel struct {
	title, unit string
	table, key  string
	format      func(float64) string
}

// bar is one bar of a panel.
type bar struct {
	name  string // of the row
	value float64
	label string // the value as text
}

// panels returns the panels for the most telling figures.
func (b *bench) panels() []panel {
	many := load{128, true}.column()
	return []panel{
		{title: "A hit from Redis, 100 bytes", unit: "µs, 128 goroutines, many keys", table: "hits/100B", key: many, format: significant},
		{title: "A hit from Redis, 50 messages decoded", unit: "µs, 128 goroutines, many keys", table: "hits/messages", key: many, format: significant},
		{title: "A hit in a near cache, 100 bytes", unit: "µs, 128 goroutines, many keys", table: "near/100B", key: many, format: significant},
		{title: "A hit in a near cache, 50 messages decoded", unit: "µs, 128 goroutines, many keys", table: "near/messages", key: many, format: significant},
		{title: "A hit in memory, 50 messages", unit: "µs, 1 goroutine, many keys", table: "memory/messages", key: load{1, true}.column(), format: significant},
		{title: "Late reads of an old value", unit: "of 1,000 racing writes", table: "stale", key: "late", format: whole},
		{title: fmt.Sprintf("%d processes ask at once: loads", b.scale(8, 2)), unit: "of one cold key", table: "stampede/many", key: "loads", format: count},
		{title: "A call while Redis hangs", unit: "ms, median, load of 1 ms", table: "trouble/hangs", key: "median", format: significant},
	}
}

// The sizes of the picture, in its own units.
const (
	panelWidth  = 500
	labelWidth  = 215
	barHeight   = 14
	barPitch    = 20
	headHeight  = 46
	panelGap    = 26
	valueWidth  = 64
	barMaxWidth = panelWidth - labelWidth - valueWidth
)

// style has colours for light and dark pages. There is no background: the page's shows through.
const style = `<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 14px }
.unit, .value { fill: #59636e }
.own { font-weight: 600 }
rect { fill: #9aa4b2 } rect.own { fill: #0a7d55 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .unit, .value { fill: #9198a1 }
rect { fill: #5b6675 } rect.own { fill: #3fb98a }
}
</style>
`

// picture draws the panels that have figures, in two columns.
func (b *bench) picture() []byte {
	var body bytes.Buffer
	y := 10
	row := func(left, right string, height int) {
		fmt.Fprintf(&body, "<g transform=\"translate(10,%d)\">%s</g>\n", y, left)
		if right != "" {
			fmt.Fprintf(&body, "<g transform=\"translate(%d,%d)\">%s</g>\n", 10+panelWidth+panelGap, y, right)
		}
		y += height + panelGap
	}
	var drawn []string
	var heights []int
	for _, p := range b.panels() {
		if bars := b.bars(p); len(bars) > 0 {
			drawn = append(drawn, drawPanel(p, bars))
			heights = append(heights, headHeight+len(bars)*barPitch)
		}
	}
	for i := 0; i < len(drawn); i += 2 {
		if i+1 < len(drawn) {
			row(drawn[i], drawn[i+1], max(heights[i], heights[i+1]))
		} else {
			row(drawn[i], "", heights[i])
		}
	}
	width := 2*panelWidth + panelGap + 20
	return fmt.Appendf(nil, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\" aria-label=\"Benchmarks; benchmarks.md has the figures\">\n%s%s</svg>\n",
		width, y, width, y, style, body.Bytes())
}

// bars returns the bars of a panel. Calls that were given up have a bar as long as the limit.
func (b *bench) bars(p panel) []bar {
	var out []bar
	for _, row := range b.results.rows(p.table, names(peers())) {
		if v, ok := b.results.median(p.table, row, p.key); ok {
			label := p.format(v)
			if math.IsInf(v, 1) {
				v, label = float64(b.troubleLimit().Milliseconds()), "no answer"
			}
			out = append(out, bar{row, v, label})
		}
	}
	return out
}

// drawPanel draws the bars of a panel.
func drawPanel(p panel, bars []bar) string {
	var w strings.Builder
	scale, logarithmic := scaleOf(bars)
	unit := p.unit
	if logarithmic {
		unit += ", logarithmic"
	}
	fmt.Fprintf(&w, "<text class=\"title\" y=\"14\">%s</text><text class=\"unit\" y=\"31\">%s; shorter is better</text>",
		html.EscapeString(p.title), html.EscapeString(unit))
	for i, bar := range bars {
		y := headHeight + i*barPitch
		class := ""
		if strings.HasPrefix(bar.name, "aside") {
			class = "own"
		}
		length := scale(bar.value)
		fmt.Fprintf(&w, "\n<text x=\"%d\" y=\"%d\" text-anchor=\"end\" class=\"%s\">%s</text><rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"2\" class=\"%s\"/><text x=\"%.1f\" y=\"%d\" class=\"value\">%s</text>",
			labelWidth-8, y+11, class, html.EscapeString(bar.name), labelWidth, y, length, barHeight, class, labelWidth+length+6, y+11, bar.label)
	}
	return w.String()
}

// scaleOf returns the function from a value to the length of its bar. It is logarithmic if the
// values are too far apart for a linear scale to show the least.
func scaleOf(bars []bar) (length func(float64) float64, logarithmic bool) {
	least, most := math.Inf(1), 0.0
	for _, b := range bars {
		if b.value > 0 {
			least, most = min(least, b.value), max(most, b.value)
		}
	}
	const shortest = 2
	if most > 40*least {
		floor := least / 2
		return func(v float64) float64 {
			if v <= 0 {
				return shortest
			}
			return max(shortest, min(1, math.Log(v/floor)/math.Log(most/floor))*barMaxWidth)
		}, true
	}
	return func(v float64) float64 {
		if most == 0 {
			return shortest
		}
		return max(shortest, min(1, v/most)*barMaxWidth)
	}, false
}
