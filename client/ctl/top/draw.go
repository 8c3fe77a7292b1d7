package top

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// Style is how a text looks on a terminal.
type Style string

// The styles: parameters of the control sequence SGR (ECMA-48).
const (
	plain Style = ""
	title Style = "7"
	head  Style = "1"
	faint Style = "2"
	warn  Style = "33"
	bad   Style = "1;31"
	good  Style = "32"
)

// span is a piece of a line.
type span struct {
	text  string
	style Style
}

type line []span

// write writes a line of at most width characters (0: any), with its styles if those are wanted.
func (l line) write(w io.Writer, width int, styled bool) {
	left := width
	for i, s := range l {
		text := s.text
		if i == len(l)-1 && s.style == plain {
			text = strings.TrimRight(text, " ")
		}
		if width > 0 {
			text = cut(text, left)
			left -= utf8.RuneCountInString(text)
		}
		if styled && s.style != plain && text != "" {
			text = "\x1b[" + string(s.style) + "m" + text + "\x1b[0m"
		}
		_, _ = io.WriteString(w, text) // who writes to a terminal that has gone is told by the end of the command
	}
}

// cut shortens a text to n characters.
func cut(text string, n int) string {
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	if n <= 0 {
		return ""
	}
	return string([]rune(text)[:n-1]) + "…"
}

// Size is that of a screen; 0 is unbounded.
type Size struct{ Width, Height int }

// prefixRows is how many prefixes are shown where the height does not say it.
const prefixRows = 10

// Draw writes a frame. Lines end with newline, which is "\n", or "\r\n" for a terminal that does nothing by itself.
func (f *Frame) Draw(w io.Writer, size Size, styled bool, newline string) {
	lines := []line{f.title(size.Width)}
	lines = append(lines, draw(f.Members, traffic(), size.Width)...)
	lines = append(lines, nil)
	lines = append(lines, draw(f.Members, holdings(), size.Width)...)
	lines = append(lines, nil)
	troubles := f.troubles()
	rows := prefixRows
	if size.Height > 0 {
		rows = max(0, size.Height-len(lines)-len(troubles)-2)
	}
	lines = append(lines, f.prefixes(rows, size.Width)...)
	if len(troubles) > 0 {
		lines = append(append(lines, nil), troubles...)
	}
	if size.Height > 0 && len(lines) > size.Height {
		lines = lines[:size.Height]
	}
	for i, l := range lines {
		l.write(w, size.Width, styled)
		if styled {
			_, _ = io.WriteString(w, "\x1b[K")
		}
		if size.Height == 0 || i < len(lines)-1 {
			_, _ = io.WriteString(w, newline)
		}
	}
}

func (f *Frame) title(width int) line {
	leader := "no leader"
	down := 0
	for _, m := range f.Members {
		switch m.Role {
		case "leader":
			leader = "leader " + m.Name
		case "down":
			down++
		}
	}
	text := fmt.Sprintf(" cluster %x   %d members", f.Cluster, len(f.Members))
	if len(f.Members) == 1 {
		text = strings.TrimSuffix(text, "s")
	}
	if down > 0 {
		text += fmt.Sprintf(" (%d down)", down)
	}
	text += fmt.Sprintf("   %s   revision %d", leader, f.Revision)
	if f.Changes.Known() {
		text += " (+" + rate(f.Changes) + "/s)"
	}
	clock := f.Time.Format("15:04:05") + " "
	if pad := width - utf8.RuneCountInString(text) - len(clock); pad > 0 {
		text += strings.Repeat(" ", pad)
	} else {
		text += "   "
	}
	return line{{text + clock, title}}
}

// troubles says what is wrong, member by member.
func (f *Frame) troubles() (all []line) {
	said := map[string]bool{}
	for _, m := range f.Members {
		if m.Error != "" {
			all = append(all, line{{m.Name + ": " + strings.ReplaceAll(m.Error, "\n", " "), bad}})
		}
		for _, e := range m.Errors {
			if !said[e] {
				all = append(all, line{{m.Name + ": " + e, bad}})
			}
			said[e] = true
		}
	}
	return all
}

// prefixes puts the two lists side by side, rows of each.
func (f *Frame) prefixes(rows, width int) []line {
	if f.Hidden {
		return []line{{{"Prefixes are shown to root only.", faint}}}
	}
	name := max(8, (width-3)/2-18)
	if width == 0 {
		name = f.longest(rows)
	}
	lines := []line{{{pad("HOTTEST PREFIX", name) + padLeft("READ/S", 9) + padLeft("WRITE/S", 9), head}, {"   ", plain},
		{pad("BIGGEST PREFIX", name) + padLeft("KEYS", 9) + padLeft("BYTES", 9), head}}}
	for i := range min(rows, max(len(f.Hottest), len(f.Biggest))) {
		left, right := strings.Repeat(" ", name+18), ""
		if i < len(f.Hottest) {
			h := f.Hottest[i]
			left = pad(show(h.Prefix, name), name) + padLeft(rate(Number(h.Reads)), 9) + padLeft(rate(Number(h.Writes)), 9)
		}
		if i < len(f.Biggest) {
			b := f.Biggest[i]
			right = pad(show(b.Prefix, name), name) + padLeft(count(Number(b.Keys)), 9) + padLeft(size(Number(b.Bytes)), 9)
		}
		lines = append(lines, line{{left + "   " + right, plain}})
	}
	return lines
}

// longest is how long the prefixes are that are shown, within reason.
func (f *Frame) longest(rows int) int {
	n := len("HOTTEST PREFIX")
	for _, h := range f.Hottest[:min(rows, len(f.Hottest))] {
		n = max(n, len(show(h.Prefix, maxShown)))
	}
	for _, b := range f.Biggest[:min(rows, len(f.Biggest))] {
		n = max(n, len(show(b.Prefix, maxShown)))
	}
	return n
}

// maxShown is how much is shown of a prefix where there is room for everything.
const maxShown = 80

// show is a prefix as text of at most n characters, the end being more telling than the middle.
func show(prefix []byte, n int) string {
	text := string(prefix)
	if q := strconv.Quote(text); q != `"`+text+`"` {
		text = q[1 : len(q)-1]
	}
	r := []rune(text)
	if len(r) <= n {
		return text
	}
	front := n / 3
	return string(r[:front]) + "…" + string(r[len(r)-(n-front-1):])
}

func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-utf8.RuneCountInString(s)))
}

func padLeft(s string, n int) string {
	return strings.Repeat(" ", max(0, n-utf8.RuneCountInString(s))) + s
}

// rate is a number of events per second.
func rate(n Number) string {
	switch {
	case !n.Known():
		return "-"
	case n == 0:
		return "0"
	case n < 9.95:
		return strconv.FormatFloat(float64(n), 'f', 1, 64)
	}
	return count(n)
}

// count is a number of things.
func count(n Number) string {
	switch {
	case !n.Known():
		return "-"
	case n < 100_000:
		return strconv.FormatFloat(float64(n), 'f', 0, 64)
	}
	return strings.ReplaceAll(humanize.SIWithDigits(float64(n), 1, ""), " ", "")
}

// size is a number of bytes.
func size(n Number) string {
	if !n.Known() {
		return "-"
	}
	return strings.ReplaceAll(humanize.IBytes(uint64(n)), " ", "")
}

// duration is a time in seconds.
func duration(n Number) string {
	if !n.Known() {
		return "-"
	}
	d := time.Duration(float64(n) * float64(time.Second))
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}
