package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Memory is how much memory, in bytes, all pods use together of what they may: without files that the kernel can drop at once. It
// is false if that is not known, or if there is no limit.
func (t *Tree) Memory() (used, limit int64, ok bool) {
	m, err := t.manager(t.node(""))
	if err != nil {
		return 0, 0, false
	}
	dir, usage, most, idle := m.Path("memory"), "memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"
	if t.v2 {
		dir, usage, most, idle = m.Path(""), "memory.current", "memory.max", "inactive_file"
	}
	limit, ok = number(filepath.Join(dir, most))
	if !ok || t.cfg.Limits.Memory().IsZero() {
		return 0, 0, false
	}
	if used, ok = number(filepath.Join(dir, usage)); !ok {
		return 0, 0, false
	}
	stat, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return 0, 0, false
	}
	for line := range strings.Lines(string(stat)) {
		if text, found := strings.CutPrefix(line, idle+" "); found {
			n, _ := strconv.ParseInt(strings.TrimSpace(text), 10, 64) // the kernel writes numbers
			return max(used-n, 0), limit, true
		}
	}
	return used, limit, true
}

// number reads a file with a number; false if there is none, as in "max".
func number(file string) (int64, bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}
