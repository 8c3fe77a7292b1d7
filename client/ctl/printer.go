package ctl

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Printer writes results in one format.
type Printer interface {
	// Print writes one result. An error with ExitBadFeature says that the format has no form for it.
	Print(result any) error
}

// formats are the names that newPrinter knows.
func formats() []string { return []string{"fields", "json", "protobuf", "simple", "table"} }

// newPrinter returns the printer of a format. out receives results, errs what the simple format says of failures.
func newPrinter(format string, hex bool, out, errs io.Writer) (Printer, error) {
	switch format {
	case "simple":
		return simple{out: out, errs: errs, hex: hex}, nil
	case "fields":
		return fields{out: out, hex: hex}, nil
	case "json":
		return jsonFormat{out: out, hex: hex}, nil
	case "protobuf":
		return protobuf{out: out}, nil
	case "table":
		return table{out: out}, nil
	}
	return nil, exit(ExitBadFeature, errors.New("unsupported output format"))
}

func unsupported(format string) error {
	return exit(ExitBadFeature, fmt.Errorf("%s not supported as output format", format))
}

// escaped is b as text, or as a run of \x escapes.
func escaped(b []byte, asHex bool) string {
	if !asHex {
		return string(b)
	}
	var s strings.Builder
	digits := hex.EncodeToString(b)
	for i := 0; i < len(digits); i += 2 {
		s.WriteString(`\x`)
		s.WriteString(digits[i : i+2])
	}
	return s.String()
}
