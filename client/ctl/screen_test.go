package ctl_test

import (
	"fmt"
	"html"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"
)

// screen is what a terminal shows that understands no more than top says.
type screen struct {
	mu       sync.Mutex
	w, h     int
	x, y     int
	style    string
	cells    [][]glyph
	unparsed []byte
}

type glyph struct {
	r     rune
	style string
}

func newScreen(w, h int) *screen {
	s := &screen{w: w, h: h}
	for range h {
		s.cells = append(s.cells, make([]glyph, w))
	}
	return s
}

var sequence = regexp.MustCompile(`^\x1b\[([?0-9;]*)([A-Za-z])`)

// write takes what comes to the terminal. It says whether a frame was completed, which ends with the clearing of what is below it.
func (s *screen) write(b []byte) (complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unparsed = append(s.unparsed, b...)
	for len(s.unparsed) > 0 {
		if s.unparsed[0] == 0x1b {
			m := sequence.FindSubmatch(s.unparsed)
			if m == nil {
				return complete
			}
			s.unparsed = s.unparsed[len(m[0]):]
			complete = s.control(string(m[1]), m[2][0]) || complete
			continue
		}
		if !utf8.FullRune(s.unparsed) {
			return complete
		}
		r, n := utf8.DecodeRune(s.unparsed)
		s.unparsed = s.unparsed[n:]
		switch {
		case r == '\r':
			s.x = 0
		case r == '\n':
			s.y = min(s.y+1, s.h-1)
		case s.x < s.w:
			s.cells[s.y][s.x] = glyph{r, s.style}
			s.x++
		}
	}
	return complete
}

func (s *screen) control(args string, final byte) (complete bool) {
	switch final {
	case 'H':
		s.x, s.y = 0, 0
	case 'm':
		if s.style = args; args == "0" {
			s.style = ""
		}
	case 'K':
		clear(s.cells[s.y][min(s.x, s.w):])
	case 'J':
		if args != "2" {
			for y := s.y + 1; y < s.h; y++ {
				clear(s.cells[y])
			}
			return true
		}
		for y := range s.cells {
			clear(s.cells[y])
		}
	}
	return false
}

// text is what can be read.
func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, row := range s.cells {
		line := ""
		for _, g := range row {
			if g.r == 0 {
				g.r = ' '
			}
			line += string(g.r)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// looks are the attributes of the styles that top uses.
var looks = map[string]string{
	"": `fill="#d4d8dd"`, "7": `fill="#14181d" font-weight="bold"`, "1": `fill="#8fb8de" font-weight="bold"`, "2": `fill="#808890"`,
	"33": `fill="#e5c07b"`, "1;31": `fill="#ef6b73" font-weight="bold"`, "32": `fill="#98c379"`,
}

// svg is a picture of the screen.
func (s *screen) svg() string {
	height := strings.Count(s.text(), "\n") + 1
	s.mu.Lock()
	defer s.mu.Unlock()
	const cw, ch, edge = 8, 18, 12
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="13">`+"\n",
		s.w*cw+2*edge, height*ch+2*edge)
	b.WriteString(`<rect width="100%" height="100%" rx="8" fill="#14181d"/>` + "\n")
	for y, row := range s.cells[:min(height, s.h)] {
		for x := 0; x < s.w; {
			style, from, text := row[x].style, x, ""
			for ; x < s.w && row[x].style == style; x++ {
				r := row[x].r
				if r == 0 {
					r = ' '
				}
				text += string(r)
			}
			if style == "7" {
				fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="#8fb8de"/>`+"\n", edge+from*cw, edge+y*ch, (x-from)*cw, ch)
			}
			trimmed := strings.TrimRight(text, " ")
			front := len(trimmed) - len(strings.TrimLeft(trimmed, " "))
			trimmed = strings.TrimLeft(trimmed, " ")
			if trimmed == "" {
				continue
			}
			fmt.Fprintf(&b, `<text x="%d" y="%d" textLength="%d" xml:space="preserve" %s>%s</text>`+"\n",
				edge+(from+front)*cw, edge+y*ch+13, utf8.RuneCountInString(trimmed)*cw, looks[style], html.EscapeString(trimmed))
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}
