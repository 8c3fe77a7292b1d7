package utl

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Preflight is what was found out about a data directory before it is taken over.
type Preflight struct {
	Dir      string   `json:"dir"`
	Verdict  Verdict  `json:"verdict"`
	Because  []string `json:"because,omitempty"` // why not
	After    []string `json:"after,omitempty"`   // what is to be done before
	Next     []string `json:"next,omitempty"`    // commands to go on with
	Findings []Found  `json:"findings"`
}

// Verdict says whether a data directory can be taken over.
type Verdict string

// The verdicts.
const (
	AsItIs Verdict = "can be taken over as it is"
	After  Verdict = "can be taken over after some preparation"
	Not    Verdict = "cannot be taken over"
)

// Found is one thing that was found out.
type Found struct {
	Topic string `json:"topic"`
	Text  string `json:"text"`
	Note  bool   `json:"note,omitempty"` // worth a thought, though nothing stands in the way
}

// exit is the status of the command.
func (v Verdict) exit() int {
	switch v {
	case AsItIs:
		return 0
	case After:
		return 1
	}
	return 2
}

func (p *Preflight) tell(topic, format string, args ...any) {
	p.Findings = append(p.Findings, Found{Topic: topic, Text: fmt.Sprintf(format, args...)})
}

// note tells something that deserves attention.
func (p *Preflight) note(topic, format string, args ...any) {
	p.tell(topic, format, args...)
	p.Findings[len(p.Findings)-1].Note = true
}

// first tells what is to be done before.
func (p *Preflight) first(format string, args ...any) {
	p.After = append(p.After, fmt.Sprintf(format, args...))
}

// refuse tells why the directory cannot be taken over.
func (p *Preflight) refuse(format string, args ...any) {
	p.Because = append(p.Because, fmt.Sprintf(format, args...))
}

func (u *utl) preflight() *cobra.Command {
	o := preflightOptions{}
	cmd := &cobra.Command{
		Use:   "preflight <data directory>",
		Short: "Says whether and how a data directory of etcd can be taken over",
		Long: `Reads a data directory of etcd 3.4 to 3.7, or of Keelson, and says whether and how Keelson can take it over: versions,
members, how log and database fit together, damage, remains of the v2 store, permissions and space. Nothing is
changed. It works beside a running member too: the database, which that member has locked, is copied to read it.
The exit status is 0 if the directory can be taken over as it is, 1 if something is to be done before, 2 if it cannot be.
`,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("preflight requires exactly one argument, the data directory")
			}
			if u.format != "simple" && u.format != "json" {
				return exit(ExitBadFeature, fmt.Errorf("%s not supported as output format", u.format))
			}
			o.dir = args[0]
			p, err := inspect(o)
			if err != nil {
				return err
			}
			if err := u.printPreflight(p); err != nil {
				return err
			}
			if code := p.Verdict.exit(); code != 0 {
				return exit(code, nil)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.walDir, "wal-dir", "", "the directory of the log, if it is not in the data directory")
	fs.BoolVar(&o.deep, "deep", false, "check every page of the database, and tell the hash of it")
	_ = cmd.MarkFlagDirname("wal-dir")
	return cmd
}

func (u *utl) printPreflight(p *Preflight) error {
	if u.format == "json" {
		return json.NewEncoder(u.out).Encode(p)
	}
	var b strings.Builder
	for _, f := range p.Findings {
		mark := " "
		if f.Note {
			mark = "!"
		}
		fmt.Fprintf(&b, "%s %-12s  %s\n", mark, f.Topic, f.Text)
	}
	fmt.Fprintf(&b, "\n%s %s", p.Dir, p.Verdict)
	list := func(head string, items []string) {
		if len(items) > 0 {
			b.WriteString(head)
		}
		for _, item := range items {
			fmt.Fprintf(&b, "  - %s\n", item)
		}
	}
	if len(p.Because)+len(p.After) == 0 {
		b.WriteString(".\n")
	}
	list(", because\n", p.Because)
	if len(p.Because) > 0 && len(p.After) > 0 {
		b.WriteString("To do in any case")
	}
	list(":\n", p.After)
	if len(p.Next) > 0 {
		b.WriteString("\nGo on with:\n")
		for _, c := range p.Next {
			fmt.Fprintf(&b, "  %s\n", c)
		}
	}
	_, err := io.WriteString(u.out, b.String())
	return err
}
