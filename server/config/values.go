package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Flag values that pflag does not have.

// list is a comma-separated list; setting it replaces what was there.
type list struct{ v *[]string }

func (l list) String() string { return strings.Join(*l.v, ",") }
func (l list) Type() string   { return "strings" }

// Set takes a comma-separated list; empty elements are left out.
func (l list) Set(s string) error {
	*l.v = nil
	for _, p := range strings.Split(s, ",") {
		if p = strings.TrimSpace(p); p != "" {
			*l.v = append(*l.v, p)
		}
	}
	return nil
}

// millis is a duration given as a number of milliseconds.
type millis struct{ v *time.Duration }

func (m millis) String() string { return strconv.FormatInt(m.v.Milliseconds(), 10) }
func (m millis) Type() string   { return "uint" }

// Set takes a number of milliseconds.
func (m millis) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return err
	}
	*m.v = time.Duration(n) * time.Millisecond
	return nil
}

// seconds is a duration given as a number of seconds.
type seconds struct{ v *time.Duration }

func (s seconds) String() string { return strconv.FormatInt(int64(*s.v/time.Second), 10) }
func (s seconds) Type() string   { return "uint" }

// Set takes a number of seconds.
func (s seconds) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return err
	}
	*s.v = time.Duration(n) * time.Second
	return nil
}

// state is new or existing.
type state struct{ existing *bool }

func (v state) Type() string { return "string" }
func (v state) String() string {
	if v.existing != nil && *v.existing {
		return "existing"
	}
	return "new"
}

// Set takes new or existing.
func (v state) Set(s string) error {
	switch s {
	case "new", "existing":
		*v.existing = s == "existing"
		return nil
	}
	return fmt.Errorf("must be new or existing, not %q", s)
}

// only is a flag that has one value.
type only struct{ v string }

func (o only) String() string { return o.v }
func (o only) Type() string   { return "string" }

// Set refuses everything but the one value.
func (o only) Set(s string) error {
	if s != o.v {
		return fmt.Errorf("only %q is supported", o.v)
	}
	return nil
}

// stage is --v2-deprecation: a stage of the removal of etcd's second version. All is removed, so none is left to choose.
type stage struct{}

func (stage) Type() string   { return "string" }
func (stage) String() string { return "write-only" }

// Set takes the stages that etcd takes.
func (stage) Set(s string) error {
	if !slices.Contains([]string{"write-only", "write-only-drop-data", "gone"}, s) {
		return fmt.Errorf("invalid value %q", s)
	}
	return nil
}

// byteSize is a number of bytes, such as 512MiB, or auto, which is -1.
type byteSize struct{ v *int64 }

func (b byteSize) Type() string { return "size" }
func (b byteSize) String() string {
	if b.v == nil || *b.v < 0 {
		return "auto"
	}
	return strconv.FormatInt(*b.v, 10)
}

// Set takes a number of bytes with or without a unit, or auto.
func (b byteSize) Set(s string) (err error) {
	if s == "auto" {
		*b.v = -1
		return nil
	}
	*b.v, err = parseBytes(s)
	return err
}

// parseBytes reads 100MiB, 1GB, 4096.
func parseBytes(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a number of bytes, such as 512MiB", s)
	}
	return int64(n), nil
}
