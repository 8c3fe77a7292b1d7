package kinds

import (
	"fmt"
	"strconv"
	"strings"
)

// indexes are those of a job's pods, as intervals in their order.
type indexes [][2]int32

// parseIndexes reads indexes as "1,3-5", all below a limit.
func parseIndexes(text string, limit int32) (l indexes, err error) {
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		i, err := parseInterval(part, limit)
		if err != nil {
			return nil, err
		}
		if n := len(l); n > 0 && l[n-1][1] >= i[0] {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", l[n-1][1], i[0])
		}
		l = append(l, i)
	}
	return l, nil
}

func parseInterval(text string, limit int32) (i [2]int32, err error) {
	parts := strings.Split(text, "-")
	if len(parts) > 2 {
		return i, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", text)
	}
	for j, part := range parts {
		n, err := strconv.ParseInt(part, 10, 32)
		if err != nil {
			return i, fmt.Errorf("cannot convert string to integer for index: %q", part)
		}
		if int32(n) >= limit {
			return i, fmt.Errorf("too large index: %q", part)
		}
		i[j] = int32(n)
	}
	switch {
	case len(parts) == 1:
		i[1] = i[0]
	case i[0] >= i[1]:
		return i, fmt.Errorf("non-increasing order, previous: %d, current: %d", i[0], i[1])
	}
	return i, nil
}

// size is how many there are.
func (l indexes) size() (n int32) {
	for _, i := range l {
		n += i[1] - i[0] + 1
	}
	return n
}

// overlap returns the first index that is in both.
func (l indexes) overlap(with indexes) (int32, bool) {
	for len(l) > 0 && len(with) > 0 {
		a, b := l[0], with[0]
		switch {
		case a[0] <= b[1] && b[0] <= a[1]:
			return max(a[0], b[0]), true
		case a[0] <= b[0]:
			l = l[1:]
		default:
			with = with[1:]
		}
	}
	return 0, false
}
