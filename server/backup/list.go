package backup

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/server/backup/archive"
)

// rangeOf is what of a chain can be restored, as JSON.
type rangeOf struct {
	Chain         string    `json:"chain"`
	FirstRevision int64     `json:"firstRevision"`
	LastRevision  int64     `json:"lastRevision,omitempty"` // 0: not known
	From          time.Time `json:"from"`
	To            time.Time `json:"to"`
	Bases         int       `json:"bases"`
	Segments      int       `json:"segments"`
	Bytes         int64     `json:"bytes"`
}

func listCommand() *cobra.Command {
	var from place
	var asJSON bool
	cmd := &cobra.Command{Use: "list --from {archive}", Short: "Say what can be restored", Args: cobra.NoArgs}
	from.bind(cmd.Flags(), "from", "Archive to read")
	cmd.Flags().BoolVar(&asJSON, "json", false, "Print JSON")
	logs := logFlags(cmd.Flags(), "warn")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return runUntilSignal(cmd, logs, func(ctx context.Context, _ *zap.Logger) error {
			st, err := from.open()
			if err != nil {
				return err
			}
			cat, err := archive.Read(ctx, st)
			if err != nil {
				return err
			}
			if asJSON {
				return printRanges(cmd.OutOrStdout(), cat)
			}
			describe(cmd.OutOrStdout(), cat)
			return nil
		})
	}
	return cmd
}

func spansOf(cat *archive.Catalog) (spans []archive.Span) {
	for _, c := range cat.Chains {
		spans = append(spans, c.Spans()...)
	}
	return spans
}

func printRanges(w io.Writer, cat *archive.Catalog) error {
	ranges := []rangeOf{}
	for _, s := range spansOf(cat) {
		ranges = append(ranges, rangeOf{
			s.Chain.Name, s.FirstRevision, s.LastRevision, s.Since.UTC(), s.Until.UTC(), s.Bases, s.Segments, s.Bytes,
		})
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(ranges)
}

// describe says what can be restored, and what lies between.
func describe(w io.Writer, cat *archive.Catalog) {
	spans := spansOf(cat)
	if len(spans) == 0 {
		fmt.Fprintln(w, "Nothing can be restored: there is no base yet.")
	}
	for i, s := range spans {
		if i > 0 {
			before := spans[i-1]
			fmt.Fprintf(w, "A gap: nothing is known between revision %s at %s and revision %d at %s.\n",
				revision(before.LastRevision), stamp(before.Until), s.FirstRevision, stamp(s.Since))
		}
		fmt.Fprintf(w, "Revisions %d to %s, %s to %s: chain %s, %s, %s, %s.\n", s.FirstRevision, revision(s.LastRevision),
			stamp(s.Since), stamp(s.Until), s.Chain.Name, plural(s.Bases, "base", "bases"), plural(s.Segments, "segment", "segments"),
			humanize.IBytes(uint64(s.Bytes)))
	}
	for _, c := range cat.Chains {
		if len(c.Bases) == 0 {
			fmt.Fprintf(w, "Chain %s has no base yet: its %s cannot be restored.\n", c.Name, plural(len(c.Segments), "segment", "segments"))
		}
	}
	for _, name := range cat.Foreign {
		fmt.Fprintf(w, "%s is no part of an archive.\n", name)
	}
}

func revision(rev int64) string {
	if rev == 0 {
		return "(not known)"
	}
	return fmt.Sprint(rev)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
