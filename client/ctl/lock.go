package ctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/client/concurrency"
)

// interruptible returns a context that SIGINT and SIGTERM end, so that there is time to clean up. The second signal
// ends the process as ever.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

func (c *ctl) lock() *cobra.Command {
	ttl := 10
	cmd := &cobra.Command{
		Use:   "lock <lockname> [exec-command arg1 arg2 ...]",
		Short: "Holds a lock until interrupted, or while a command runs",
		Long: `Waits for a lock. Then runs a command, with ETCD_LOCK_KEY and ETCD_LOCK_REV in its environment, and ends with the
command's status; or, without one, prints the lock's key and holds the lock until it is interrupted.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return badArgs("lock takes a lock name argument and an optional command to execute")
			}
			return c.with(cmd, func(ctx context.Context, s *session, cl *client.Client) error {
				ctx, cancel := interruptible(ctx)
				defer cancel()
				return s.holdLock(ctx, cl, args[0], args[1:], int64(ttl))
			})
		},
	}
	cmd.Flags().IntVar(&ttl, "ttl", ttl, "seconds that the lock outlives this process at most, should it crash")
	return cmd
}

// holdLock takes the lock, and gives it up when the command or ctx ends.
func (s *session) holdLock(ctx context.Context, cl *client.Client, name string, command []string, ttl int64) error {
	sess, err := concurrency.NewSession(ctx, cl, concurrency.WithTTL(ttl))
	if err != nil {
		return err
	}
	defer sess.Close()
	m := concurrency.NewMutex(sess, name)
	if err := m.Lock(ctx); err != nil {
		return err
	}
	if len(command) > 0 {
		err := s.runLocked(m, command)
		if unlockErr := m.Unlock(cl.Context()); err == nil {
			err = unlockErr
		}
		return err
	}
	resp, err := cl.Get(ctx, m.Key())
	switch {
	case err != nil:
		return err
	case len(resp.Kvs) == 0:
		return errors.New("lock lost on init")
	}
	if err := s.printer.Print(resp); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return m.Unlock(cl.Context())
	case <-sess.Done():
		return errors.New("session expired")
	}
}

// runLocked runs the command. It has the terminal's signals as we do, so that it ends with them.
func (s *session) runLocked(m *concurrency.Mutex, command []string) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append([]string{
		"ETCD_LOCK_KEY=" + m.Key(),
		fmt.Sprintf("ETCD_LOCK_REV=%d", m.Header().GetRevision()),
	}, os.Environ()...)
	cmd.Stdout, cmd.Stderr = s.c.out, s.c.errs
	err := cmd.Run()
	var status *exec.ExitError
	if errors.As(err, &status) {
		return exit(status.ExitCode(), err)
	}
	return err
}

func (c *ctl) elect() *cobra.Command {
	var listen bool
	cmd := &cobra.Command{
		Use:   "elect <election-name> [proposal]",
		Short: "Stands for election until interrupted, or watches elections",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) != 1 && len(args) != 2:
				return badArgs("elect takes one election name argument and an optional proposal argument")
			case len(args) == 1 && !listen:
				return badArgs("no proposal argument but -l not set")
			case len(args) == 2 && listen:
				return badArgs("proposal given but -l is set")
			}
			return c.with(cmd, func(ctx context.Context, s *session, cl *client.Client) error {
				ctx, cancel := interruptible(ctx)
				defer cancel()
				if listen {
					return s.observe(ctx, cl, args[0])
				}
				return s.campaign(ctx, cl, args[0], args[1])
			})
		},
	}
	cmd.Flags().BoolVarP(&listen, "listen", "l", false, "print each leader, and do not stand")
	return cmd
}

// observe prints the leaders until ctx ends.
func (s *session) observe(ctx context.Context, cl *client.Client, name string) error {
	sess, err := concurrency.NewSession(ctx, cl)
	if err != nil {
		return err
	}
	defer sess.Close()
	for resp, err := range concurrency.NewElection(sess, name).ObserveResponses(ctx) {
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return errors.New("elect: observer lost")
		}
		if err := s.printer.Print(resp); err != nil {
			return err
		}
	}
	return nil
}

// campaign stands for election, and resigns when ctx ends.
func (s *session) campaign(ctx context.Context, cl *client.Client, name, proposal string) error {
	sess, err := concurrency.NewSession(ctx, cl)
	if err != nil {
		return err
	}
	defer sess.Close()
	e := concurrency.NewElection(sess, name)
	if err := e.Campaign(ctx, proposal); err != nil {
		return err
	}
	resp, err := cl.Get(ctx, e.Key())
	if err != nil {
		return err
	}
	if err := s.printer.Print(resp); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return e.Resign(cl.Context())
	case <-sess.Done():
		return errors.New("elect: session expired")
	}
}
