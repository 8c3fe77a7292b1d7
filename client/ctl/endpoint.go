package ctl

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/client"
)

func (c *ctl) endpoint() *cobra.Command {
	var cluster bool
	cmd := parent("endpoint <subcommand>", "Asks members about themselves, each by itself",
		c.endpointHealth(&cluster), c.endpointStatus(&cluster), c.endpointHashKV(&cluster), c.endpointRefetch())
	clusterFlag(cmd, &cluster)
	return cmd
}

func clusterFlag(cmd *cobra.Command, cluster *bool) {
	cmd.PersistentFlags().BoolVar(cluster, "cluster", false, "ask all members of the cluster, not the given endpoints")
}

// endpoints are those of the flag --endpoints, or all that the cluster has.
func (s *session) endpoints(ctx context.Context, cluster bool) ([]string, error) {
	if !cluster {
		return s.cfg.Endpoints, nil
	}
	cl, err := s.dial()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ctx, cancel := s.short(ctx)
	defer cancel()
	list, err := cl.MemberList(ctx)
	if err != nil {
		return nil, exit(ExitError, fmt.Errorf("failed to fetch endpoints from etcd cluster member list: %w", s.c.plain(err)))
	}
	var eps []string
	for _, m := range list.Members {
		eps = append(eps, m.ClientURLs...)
	}
	return eps, nil
}

// at makes one call to one endpoint.
func at[T any](ctx context.Context, s *session, ep string, f func(context.Context, *client.Client) (T, error)) (resp T, err error) {
	cl, err := s.dial(ep)
	if err != nil {
		return resp, err
	}
	defer cl.Close()
	ctx, cancel := s.short(ctx)
	defer cancel()
	resp, err = f(ctx, cl)
	return resp, s.c.plain(err)
}

// openEndpoints opens a session and finds the endpoints that a command is for.
func (c *ctl) openEndpoints(cmd *cobra.Command, cluster bool) (*session, []string, error) {
	s, err := c.open(cmd)
	if err != nil {
		return nil, nil, err
	}
	eps, err := s.endpoints(cmd.Context(), cluster)
	return s, eps, err
}

func (c *ctl) endpointHealth(cluster *bool) *cobra.Command {
	return &cobra.Command{
		Use:   "health",
		Short: "Prints which endpoints can commit and have no alarm",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, eps, err := c.openEndpoints(cmd, *cluster)
			if err != nil {
				return err
			}
			var list []health
			if len(eps) > 0 {
				list = make([]health, len(eps))
			}
			var wg sync.WaitGroup
			for i, ep := range eps {
				wg.Go(func() { list[i] = s.health(cmd.Context(), ep) })
			}
			wg.Wait()
			if err := s.printer.Print(list); err != nil {
				return err
			}
			for _, h := range list {
				if h.Error != "" {
					return exit(ExitError, errors.New("unhealthy cluster"))
				}
			}
			return nil
		},
	}
}

// health finds out whether an endpoint is able to answer a linearizable read, and has no alarm.
func (s *session) health(ctx context.Context, ep string) health {
	cl, err := s.dial(ep)
	if err != nil {
		return health{Ep: ep, Error: err.Error()}
	}
	defer cl.Close()
	ctx, cancel := s.short(ctx)
	defer cancel()
	start := time.Now()
	_, err = cl.Get(ctx, "health")
	h := health{Ep: ep, Took: time.Since(start).String()}
	if err != nil && !errors.Is(err, rpctypes.ErrPermissionDenied) { // to be denied takes a working cluster
		h.Error = s.c.plain(err).Error()
		return h
	}
	alarms, err := cl.AlarmList(ctx)
	switch {
	case err != nil:
		h.Error = "Unable to fetch the alarm list"
	case len(alarms.Alarms) > 0:
		h.Error = "Active Alarm(s): "
		for _, a := range alarms.Alarms {
			switch a.Alarm {
			case client.AlarmNoSpace, client.AlarmCorrupt:
				h.Error += a.Alarm.String() + " "
			default:
				h.Error += "UNKNOWN "
			}
		}
	default:
		h.Health = true
	}
	return h
}

func (c *ctl) endpointStatus(cluster *bool) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Prints versions, sizes and positions of endpoints",
		Long: `Prints versions, sizes and positions of endpoints. In the format simple, the columns are
endpoint, ID, version, storage version, db size, in use, percentage not in use, quota, is leader, is learner,
raft term, raft index, raft applied index, errors, downgrade target version, downgrade enabled.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, eps, err := c.openEndpoints(cmd, *cluster)
			if err != nil {
				return err
			}
			var (
				list []status
				last error
			)
			for _, ep := range eps {
				resp, err := at(cmd.Context(), s, ep, func(ctx context.Context, cl *client.Client) (*client.StatusResponse, error) {
					return cl.Status(ctx, ep)
				})
				if err != nil {
					fmt.Fprintf(c.errs, "Failed to get the status of endpoint %s (%v)\n", ep, err)
					last = exit(ExitError, nil)
					continue
				}
				list = append(list, status{ep, resp})
			}
			if err := s.printer.Print(list); err != nil {
				return err
			}
			return last
		},
	}
}

func (c *ctl) endpointHashKV(cluster *bool) *cobra.Command {
	var rev int64
	cmd := &cobra.Command{
		Use:   "hashkv",
		Short: "Prints the checksums of the endpoints' keys and history",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, eps, err := c.openEndpoints(cmd, *cluster)
			if err != nil {
				return err
			}
			var (
				list []hashKV
				last error
			)
			for _, ep := range eps {
				resp, err := at(cmd.Context(), s, ep, func(ctx context.Context, cl *client.Client) (*client.HashKVResponse, error) {
					return cl.HashKV(ctx, ep, rev)
				})
				if err != nil {
					fmt.Fprintf(c.errs, "Failed to get the hash of endpoint %s (%v)\n", ep, err)
					last = withCode(ExitError, err)
					continue
				}
				list = append(list, hashKV{ep, resp})
			}
			if err := s.printer.Print(list); err != nil {
				return err
			}
			return last
		},
	}
	cmd.PersistentFlags().Int64Var(&rev, "rev", 0, "revision up to which the checksum goes (0 is now)")
	return cmd
}

func (c *ctl) endpointRefetch() *cobra.Command {
	return &cobra.Command{
		Use:   "refetch",
		Short: "Replaces the data of an endpoint, which differ from those of the majority, by another member's",
		Long: `Replaces the data of the endpoint by those of a member that agrees with the majority of the cluster: of a member that has quarantined
itself, say. The member is not restarted. The command waits for the end, as long as that takes.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.open(cmd)
			if err != nil {
				return err
			}
			if len(s.cfg.Endpoints) != 1 {
				return badArgs("endpoint refetch needs exactly one endpoint, that of the member whose data are to be replaced")
			}
			cl, err := s.dial(s.cfg.Endpoints[0])
			if err != nil {
				return err
			}
			defer cl.Close()
			resp, err := cl.Refetch(cmd.Context(), s.cfg.Endpoints[0])
			if err != nil {
				return withCode(ExitError, c.plain(err))
			}
			fmt.Fprintf(c.out, "Member %x has the data of member %x now: %d bytes, up to index %d of the log, at revision %d.\n",
				resp.MemberId, resp.SourceId, resp.Bytes, resp.Index, resp.Revision)
			if resp.Quarantined {
				return exit(ExitError, errors.New("the member is still in quarantine: its data have not been found to agree with those of the majority yet"))
			}
			return nil
		},
	}
}
