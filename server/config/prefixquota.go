package config

import (
	"fmt"
	"strconv"
	"strings"
)

// PrefixQuota bounds what the keys under a prefix take; 0 means that there is no bound.
type PrefixQuota struct {
	Prefix      string
	Bytes, Keys int64
}

// prefixQuotas are given as /app1/=100MiB,10000keys, several of them by several flags or separated by commas.
type prefixQuotas struct{ v *[]PrefixQuota }

func (p prefixQuotas) Type() string { return "prefix=quota" }
func (p prefixQuotas) String() string {
	if p.v == nil {
		return ""
	}
	parts := make([]string, len(*p.v))
	for i, q := range *p.v {
		var bounds []string
		if q.Bytes > 0 {
			bounds = append(bounds, strconv.FormatInt(q.Bytes, 10))
		}
		if q.Keys > 0 {
			bounds = append(bounds, strconv.FormatInt(q.Keys, 10)+"keys")
		}
		parts[i] = q.Prefix + "=" + strings.Join(bounds, ",")
	}
	return strings.Join(parts, ",")
}

// Set adds quotas to those that were set before.
func (p prefixQuotas) Set(s string) error {
	var q *PrefixQuota
	var add []PrefixQuota
	for _, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		if i := strings.LastIndexByte(part, '='); i >= 0 {
			add = append(add, PrefixQuota{Prefix: part[:i]})
			q, part = &add[len(add)-1], part[i+1:]
		}
		if q == nil || q.Prefix == "" {
			return fmt.Errorf("%q has not the form prefix=size,number-of-keys, such as /app1/=100MiB,10000keys", s)
		}
		if err := q.bound(part); err != nil {
			return err
		}
	}
	for _, q := range add {
		for _, have := range *p.v {
			if have.Prefix == q.Prefix {
				return fmt.Errorf("prefix %q is given twice", q.Prefix)
			}
		}
		*p.v = append(*p.v, q)
	}
	return nil
}

// bound sets one of the bounds: 100MiB or 10000keys.
func (q *PrefixQuota) bound(text string) (err error) {
	to, n := &q.Bytes, int64(0)
	if number, ok := strings.CutSuffix(text, "keys"); ok {
		to = &q.Keys
		n, err = strconv.ParseInt(number, 10, 64)
	} else {
		n, err = parseBytes(text)
	}
	switch {
	case err != nil || n <= 0:
		return fmt.Errorf("prefix %q: %q is neither a size, such as 100MiB, nor a number of keys, such as 10000keys", q.Prefix, text)
	case *to != 0:
		return fmt.Errorf("prefix %q has two bounds of the same kind", q.Prefix)
	}
	*to = n
	return nil
}
