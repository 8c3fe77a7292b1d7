package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/client/ctl/doctor"
	"github.com/keelson-io/keelson/client/ctl/survey"
)

// doctorFlags are those of the command doctor.
type doctorFlags struct {
	cluster bool
	watch   time.Duration
}

func (c *ctl) doctor() *cobra.Command {
	f := &doctorFlags{}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Examines the members and says what is wrong and what to do",
		Long: `Examines all members of the cluster: who answers, the leader, alarms, versions, lag, how long disks and the network
take, clocks, free space and quota, files, certificates, and more. Says of each what was measured; of what is not in order
also what it means and what to do. Changes nothing. The exit status is 0 if all is well, 1 after a warning, 2 after a failure.
Members of etcd are examined by their status and metrics.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.runDoctor(cmd, f) },
	}
	fs := cmd.Flags()
	fs.BoolVar(&f.cluster, "cluster", true, "examine all members of the cluster, not only the given endpoints")
	fs.DurationVar(&f.watch, "watch", 3*time.Second, "how long to watch the members")
	return cmd
}

func (c *ctl) runDoctor(cmd *cobra.Command, f *doctorFlags) error {
	if f.watch < 0 {
		return badArgs("--watch must not be negative")
	}
	if c.globals.format != "json" && c.globals.format != "simple" {
		return unsupported(c.globals.format)
	}
	s, err := c.open(cmd)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	cfg := survey.Config{Client: s.cfg, Endpoints: s.cfg.Endpoints, Timeout: c.globals.commandTimeout, Prefixes: -1}
	sv := survey.New(cfg)
	defer func() { sv.Close() }()
	in := &doctor.Input{}
	if list, err := sv.Members(ctx); err != nil {
		in.ListErr = err
	} else {
		in.List = list.Members
		if f.cluster {
			sv.Close()
			cfg.Endpoints = reachable(list.Members, s.cfg.Endpoints)
			sv = survey.New(cfg)
		}
	}
	// Three looks: the first one connects, and is a bad measure of clocks.
	for i := range 3 {
		if i > 0 {
			select {
			case <-time.After(f.watch / 2):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		in.Looks = append(in.Looks, sv.Look(ctx))
	}
	in.Now = time.Now()
	found := doctor.Examine(in)
	if err := c.printFindings(found); err != nil {
		return err
	}
	if code := doctor.Worst(found).Code(); code != 0 {
		return exit(code, nil)
	}
	return nil
}

// reachable are the endpoints of members: of each the one that was given, or else its first. Those who have not started have none.
func reachable(members []*pb.Member, given []string) (eps []string) {
	bare := func(ep string) string {
		if _, addr, ok := strings.Cut(ep, "://"); ok {
			return addr
		}
		return ep
	}
	for _, m := range members {
		if len(m.ClientURLs) == 0 {
			continue
		}
		ep := m.ClientURLs[0]
		for _, g := range given {
			if slices.ContainsFunc(m.ClientURLs, func(u string) bool { return bare(u) == bare(g) }) {
				ep = g
			}
		}
		eps = append(eps, ep)
	}
	if len(eps) == 0 {
		return given
	}
	return eps
}

// printFindings writes findings, as JSON or for people.
func (c *ctl) printFindings(found []doctor.Finding) error {
	if c.globals.format == "json" {
		return json.NewEncoder(c.out).Encode(struct {
			Level    doctor.Level     `json:"level"`
			Findings []doctor.Finding `json:"findings"`
		}{doctor.Worst(found), found})
	}
	var b strings.Builder
	n := map[doctor.Level]int{}
	for _, f := range found {
		n[f.Level]++
		text := f.Found
		if f.Member != "" {
			text = f.Member + ": " + text
		}
		fmt.Fprintf(&b, "%-7s  %-19s  %s\n", f.Level, f.Check, strings.ReplaceAll(text, "\n", " "))
		if f.Means != "" {
			fmt.Fprintf(&b, "%-7s  %19s  %s\n", "", "it means", f.Means)
		}
		if f.Do != "" {
			fmt.Fprintf(&b, "%-7s  %19s  %s\n", "", "to do", f.Do)
		}
	}
	fmt.Fprintf(&b, "\n%d ok, %d warnings, %d failures", n[doctor.OK], n[doctor.Warn], n[doctor.Fail])
	if n[doctor.Unknown] > 0 {
		fmt.Fprintf(&b, ", %d not known", n[doctor.Unknown])
	}
	_, err := io.WriteString(c.out, b.String()+"\n")
	return err
}
