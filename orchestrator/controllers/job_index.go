package controllers

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// span is the indexes from first to last.
type span struct{ first, last int }

// indexSet is a set of indexes of a job, as spans in order that do not touch.
type indexSet []span

// parseIndexSet reads what String writes: "1,3-5,7". What is not a number, or is not below the limit, is left out.
func parseIndexSet(s string, limit int) (out indexSet) {
	var all []int
	for part := range strings.SplitSeq(s, ",") {
		from, to, ranged := strings.Cut(part, "-")
		a, err := strconv.Atoi(from)
		if err != nil || a < 0 {
			continue
		}
		b := a
		if ranged {
			if b, err = strconv.Atoi(to); err != nil {
				continue
			}
		}
		for i := a; i <= min(b, limit-1); i++ {
			all = append(all, i)
		}
	}
	return indexSet{}.with(all)
}

// with is the set together with some indexes.
func (s indexSet) with(add []int) indexSet {
	for _, p := range s {
		for i := p.first; i <= p.last; i++ {
			add = append(add, i)
		}
	}
	slices.Sort(add)
	var out indexSet
	for _, i := range slices.Compact(add) {
		if n := len(out); n > 0 && out[n-1].last == i-1 {
			out[n-1].last = i
		} else {
			out = append(out, span{i, i})
		}
	}
	return out
}

func (s indexSet) has(i int) bool {
	_, found := slices.BinarySearchFunc(s, i, func(p span, i int) int {
		switch {
		case p.last < i:
			return -1
		case p.first > i:
			return 1
		}
		return 0
	})
	return found
}

func (s indexSet) count() (n int) {
	for _, p := range s {
		n += p.last - p.first + 1
	}
	return n
}

func (s indexSet) String() string {
	parts := make([]string, len(s))
	for i, p := range s {
		switch p.last - p.first {
		case 0:
			parts[i] = strconv.Itoa(p.first)
		case 1:
			parts[i] = fmt.Sprintf("%d,%d", p.first, p.last)
		default:
			parts[i] = fmt.Sprintf("%d-%d", p.first, p.last)
		}
	}
	return strings.Join(parts, ",")
}

// completionIndex is the index that a pod works on; -1: none.
func completionIndex(p *corev1.Pod) int {
	return annotatedNumber(p, batchv1.JobCompletionIndexAnnotation)
}

// annotatedNumber is a number that an annotation of a pod has; -1: none.
func annotatedNumber(p *corev1.Pod, key string) int {
	n, err := strconv.Atoi(p.Annotations[key])
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// both is what is in both sets.
func (s indexSet) both(o indexSet) indexSet {
	var all []int
	for _, p := range s {
		for i := p.first; i <= p.last; i++ {
			if o.has(i) {
				all = append(all, i)
			}
		}
	}
	return indexSet{}.with(all)
}
