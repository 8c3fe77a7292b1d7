package top

import "unicode/utf8"

// column is a column of a table of members. Where there is no room for all, those of the highest rank go first; 0 stays.
type column struct {
	head  string
	rank  int
	left  bool // text, not numbers
	text  func(*Member) string
	style func(*Member) Style // nil: plain
}

// above styles numbers that are above a bound, and more so above another one.
func above(n func(*Member) Number, warnAt, badAt Number) func(*Member) Style {
	return func(m *Member) Style {
		switch v := n(m); {
		case v >= badAt:
			return bad
		case v >= warnAt:
			return warn
		}
		return plain
	}
}

func numbers(head string, rank int, text func(Number) string, n func(*Member) Number) column {
	return column{head: head, rank: rank, text: func(m *Member) string { return text(n(m)) }}
}

func watched(c column, n func(*Member) Number, warnAt, badAt Number) column {
	c.style = above(n, warnAt, badAt)
	return c
}

func name() column {
	return column{head: "MEMBER", left: true, text: func(m *Member) string { return cut(m.Name, 24) }}
}

// traffic is what clients ask for, and how long it takes.
func traffic() []column {
	write99 := func(m *Member) Number { return m.Durations.Write99 }
	read99 := func(m *Member) Number { return m.Durations.Read99 }
	sync99 := func(m *Member) Number { return m.Durations.Sync99 }
	commit99 := func(m *Member) Number { return m.Durations.Commit99 }
	failed := func(m *Member) Number { return m.Rates.Failed }
	return []column{
		name(),
		{head: "ROLE", left: true, text: func(m *Member) string { return m.Role }, style: func(m *Member) Style {
			switch m.Role {
			case "leader":
				return good
			case "down", "no leader":
				return bad
			}
			return plain
		}},
		numbers("PUT/S", 1, rate, func(m *Member) Number { return m.Rates.Put }),
		numbers("GET/S", 1, rate, func(m *Member) Number { return m.Rates.Get }),
		numbers("TXN/S", 2, rate, func(m *Member) Number { return m.Rates.Txn }),
		numbers("DEL/S", 5, rate, func(m *Member) Number { return m.Rates.Delete }),
		numbers("OTHER/S", 6, rate, func(m *Member) Number { return m.Rates.Other }),
		watched(numbers("FAIL/S", 3, rate, failed), failed, 1, 100),
		numbers("WRITE P50", 4, duration, func(m *Member) Number { return m.Durations.Write50 }),
		watched(numbers("P99", 2, duration, write99), write99, 0.1, 0.5),
		numbers("READ P50", 4, duration, func(m *Member) Number { return m.Durations.Read50 }),
		watched(numbers("P99", 2, duration, read99), read99, 0.1, 0.5),
		watched(numbers("FSYNC P99", 3, duration, sync99), sync99, 0.01, 0.1),
		watched(numbers("COMMIT P99", 5, duration, commit99), commit99, 0.025, 0.25),
		numbers("RTT", 6, duration, func(m *Member) Number { return m.Durations.Trip }),
	}
}

// holdings is what members hold.
func holdings() []column {
	lag := func(m *Member) Number { return m.Load.Lag }
	slow := func(m *Member) Number { return m.Load.Slow }
	full := func(m *Member) Number {
		if m.Load.Quota > 0 {
			return m.Load.InUse / m.Load.Quota
		}
		return unknown
	}
	return []column{
		name(),
		{head: "VERSION", rank: 7, left: true, text: func(m *Member) string {
			if m.Version == "" {
				return "-"
			}
			return m.Version
		}},
		watched(numbers("LAG", 1, count, lag), lag, 1000, 5000),
		numbers("WATCHERS", 1, count, func(m *Member) Number { return m.Load.Watchers }),
		watched(numbers("SLOW", 2, count, slow), slow, 1, 100),
		numbers("PENDING", 6, count, func(m *Member) Number { return m.Load.Pending }),
		numbers("LEASES", 1, count, func(m *Member) Number { return m.Load.Leases }),
		numbers("KEYS", 3, count, func(m *Member) Number { return m.Load.Keys }),
		numbers("DB", 2, size, func(m *Member) Number { return m.Load.Size }),
		numbers("IN USE", 2, size, func(m *Member) Number { return m.Load.InUse }),
		watched(numbers("OF QUOTA", 3, percent, full), full, 0.8, 0.95),
		numbers("CONNS", 4, count, func(m *Member) Number { return m.Load.Connections }),
		numbers("FILES", 5, count, func(m *Member) Number { return m.Load.Files }),
		numbers("MEMORY", 4, size, func(m *Member) Number { return m.Load.Memory }),
	}
}

func percent(n Number) string {
	if !n.Known() {
		return "-"
	}
	return count(n*100) + "%"
}

// draw makes the lines of a table that is at most width wide (0: any).
func draw(members []Member, columns []column, width int) []line {
	cells := make([][]string, len(columns))
	widths := make([]int, len(columns))
	total := 0
	for i, c := range columns {
		widths[i] = utf8.RuneCountInString(c.head)
		for j := range members {
			text := c.text(&members[j])
			cells[i] = append(cells[i], text)
			widths[i] = max(widths[i], utf8.RuneCountInString(text))
		}
		total += widths[i] + gap
	}
	for width > 0 && total-gap > width {
		least := 0
		for i, c := range columns {
			if widths[i] > 0 && c.rank > 0 && c.rank >= columns[least].rank {
				least = i
			}
		}
		if columns[least].rank == 0 || widths[least] == 0 {
			break
		}
		total -= widths[least] + gap
		widths[least] = 0
		columns[least].rank = 0
	}
	lines := []line{nil}
	for i, c := range columns {
		lines[0] = append(lines[0], cell(c.head, widths[i], c.left, head)...)
	}
	for j := range members {
		var l line
		for i, c := range columns {
			style := plain
			if c.style != nil {
				style = c.style(&members[j])
			}
			l = append(l, cell(cells[i][j], widths[i], c.left, style)...)
		}
		lines = append(lines, l)
	}
	return lines
}

// gap is between columns.
const gap = 2

// cell is a cell with the gap behind it; nothing if its column was left out.
func cell(text string, width int, left bool, style Style) line {
	if width == 0 {
		return nil
	}
	if left {
		text = pad(text, width)
	} else {
		text = padLeft(text, width)
	}
	return line{{text, style}, {"  ", plain}}
}
