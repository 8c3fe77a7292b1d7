package ctl

import (
	"io"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/tw"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// table is the format of boxes, for lists of members and endpoints.
type table struct{ out io.Writer }

// Print is Printer's.
func (p table) Print(result any) error {
	switch r := result.(type) {
	case *pb.MemberListResponse:
		return p.draw(memberRows(r))
	case []health:
		return p.draw(healthRows(r))
	case []status:
		return p.draw(statusRows(r))
	case []hashKV:
		return p.draw(hashRows(r))
	}
	return unsupported("table")
}

func (p table) draw(header []string, rows [][]string) error {
	cfg := tablewriter.NewConfigBuilder().WithRowAlignment(tw.AlignRight).Build()
	t := tablewriter.NewTable(p.out, tablewriter.WithConfig(cfg))
	t.Header(header)
	for _, row := range rows {
		if err := t.Append(row); err != nil {
			return err
		}
	}
	return t.Render()
}
