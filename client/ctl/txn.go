package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keelson-io/keelson/client"
)

func (c *ctl) txn() *cobra.Command {
	var interactive bool
	cmd := &cobra.Command{
		Use:   "txn [options]",
		Short: "Runs several requests as one transaction",
		Long: `Reads a transaction from standard input, in three paragraphs: comparisons, the requests that are run if all
comparisons hold, and the requests that are run if not. Each line is one of them; an empty line ends a paragraph.

---
mod("key1") > "0"

put key1 "overwrote-key1"

put key1 "created-key1"
put key2 "some extra key"

---

A comparison is <target>("<key>") <operator> "<operand>". The targets are version (ver), create (c), mod (m),
value (val) and lease, whose operand is a lease in hexadecimal; the operators are =, !=, < and >.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 0 {
				return badArgs("txn command does not accept argument")
			}
			return c.with(cmd, func(ctx context.Context, s *session, cl *client.Client) error {
				r := txnReader{lines: bufio.NewReader(c.in), prompt: io.Discard, warn: c.errs}
				if interactive {
					r.prompt = c.out
				}
				cmps, thens, elses, err := r.read()
				if err != nil {
					return err
				}
				ctx, cancel := s.short(ctx)
				defer cancel()
				resp, err := cl.Txn(ctx).If(cmps...).Then(thens...).Else(elses...).Commit()
				if err != nil {
					return c.plain(err)
				}
				return s.printer.Print(resp)
			})
		},
	}
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "say what is expected next")
	return cmd
}

// txnReader reads a transaction.
type txnReader struct {
	lines        *bufio.Reader
	prompt, warn io.Writer
}

func (r *txnReader) read() (cmps []client.Cmp, thens, elses []client.Op, err error) {
	if cmps, err = paragraph(r, "compares:", parseCompare); err != nil {
		return nil, nil, nil, err
	}
	if thens, err = paragraph(r, "success requests (get, put, del):", r.parseOp); err != nil {
		return nil, nil, nil, err
	}
	elses, err = paragraph(r, "failure requests (get, put, del):", r.parseOp)
	return cmps, thens, elses, err
}

// paragraph parses lines up to an empty one.
func paragraph[T any](r *txnReader, prompt string, parse func(string) (T, error)) (items []T, err error) {
	fmt.Fprintln(r.prompt, prompt)
	for {
		line, err := r.lines.ReadString('\n')
		if err != nil {
			return nil, exit(ExitInvalidInput, err)
		}
		if line = strings.TrimSpace(line); line == "" {
			return items, nil
		}
		item, err := parse(line)
		if err != nil {
			return nil, withCode(ExitInvalidInput, err)
		}
		items = append(items, item)
	}
}

// parseOp parses a get, put or del as on the command line.
func (r *txnReader) parseOp(line string) (op client.Op, err error) {
	args, err := splitLine(line)
	if err != nil {
		return op, err
	}
	if len(args) < 2 {
		return op, fmt.Errorf("invalid txn compare request: %s", line)
	}
	var (
		get getFlags
		put putFlags
		del delFlags
	)
	verbs := map[string]struct {
		cmd  *cobra.Command
		make func(args []string) error
	}{
		"get": {get.command(), func(args []string) error {
			key, opts, err := get.parse(args)
			op = client.OpGet(key, opts...)
			return err
		}},
		"put": {put.command(), func(args []string) error {
			key, value, opts, err := put.parse(args, strings.NewReader("")) // the input is the transaction
			op = client.OpPut(key, value, opts...)
			return err
		}},
		"del": {del.command(), func(args []string) error {
			key, opts, err := del.parse(args)
			if err == nil {
				err = del.hesitate(context.Background(), args, r.warn)
			}
			op = client.OpDelete(key, opts...)
			return err
		}},
	}
	verb, ok := verbs[args[0]]
	if !ok || verb.cmd.ParseFlags(args[1:]) != nil {
		return op, fmt.Errorf("invalid txn request: %s", line)
	}
	return op, verb.make(verb.cmd.Flags().Args())
}

// parseCompare parses one comparison.
func parseCompare(line string) (cmp client.Cmp, err error) {
	target, rest, ok := strings.Cut(line, "(")
	if !ok {
		return cmp, fmt.Errorf("malformed comparison: %s", line)
	}
	var key, op, val string
	if n, err := fmt.Sscanf(rest, "%q) %s %q", &key, &op, &val); n != 3 {
		return cmp, fmt.Errorf("malformed comparison: %s; got %s(%q) %s %q", line, target, key, op, val)
	} else if err != nil {
		return cmp, fmt.Errorf("malformed comparison: %s (%w)", line, err)
	}
	results := map[string]client.CompareResult{
		"=": client.Equal, "!=": client.NotEqual, ">": client.Greater, "<": client.Less,
	}
	result, ok := results[op]
	if !ok {
		return cmp, fmt.Errorf("malformed comparison: %s (unknown operator %s)", line, op)
	}
	number := func(t client.NumTarget, base int) (client.Cmp, error) {
		v, err := strconv.ParseInt(val, base, 64)
		if err != nil {
			return cmp, fmt.Errorf("invalid txn compare request: %s", line)
		}
		return t.Is(result, v), nil
	}
	switch target {
	case "ver", "version":
		return number(client.Version(key), 10)
	case "c", "create":
		return number(client.CreateRevision(key), 10)
	case "m", "mod":
		return number(client.ModRevision(key), 10)
	case "lease":
		return number(client.LeaseOf(key), 16)
	case "val", "value":
		return client.Value(key).Is(result, val), nil
	}
	return cmp, fmt.Errorf("malformed comparison: %s (unknown target %s)", line, target)
}

// splitLine splits a line into words. Words in double quotes are Go string literals; those in single quotes are as
// they are.
func splitLine(line string) ([]string, error) {
	words := regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'[^']*'|[^'"\s]\S*[^'"\s]?`).FindAllString(line, -1)
	for i, w := range words {
		switch w[0] {
		case '\'':
			words[i] = w[1 : len(w)-1]
		case '"':
			s, err := strconv.Unquote(w)
			if err != nil {
				return nil, exit(ExitInvalidInput, errors.New(err.Error()+": "+w))
			}
			words[i] = s
		}
	}
	return words, nil
}
