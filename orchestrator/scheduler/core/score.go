package core

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// maxExtenderScore is the best score that an extender gives.
const maxExtenderScore = 10

// Scores are those of nodes by each plugin.
type Scores struct {
	// Plugins in their order; extenders come last.
	Plugins []string
	Weights []int64
	// Raw is what Score gave, Normalized after NormalizeScore: by plugin, then by node. Extenders have no raw ones.
	Raw, Normalized [][]int64
	// Total is the weighted sum by node.
	Total []int64
}

// rank scores nodes that fit.
func (a *attempt) rank(ctx context.Context, nodes []*framework.NodeInfo, keepRaw bool) (*Scores, error) {
	var skipped []string
	for _, pl := range a.preScore {
		st := pl.PreScore(a.state, a.pod, a.snapshot, nodes)
		if st.IsSkip() {
			skipped = append(skipped, pl.Name())
		} else if !st.IsSuccess() {
			return nil, fmt.Errorf("running PreScore plugin %q: %w", pl.Name(), st.Err())
		}
	}
	out := &Scores{Total: a.core.totals(len(nodes))}
	row := 0
	for _, pl := range a.score {
		if slices.Contains(skipped, pl.Name()) {
			continue
		}
		scores := a.core.row(row, len(nodes))
		row++
		if err := a.askScore(pl, nodes, scores); err != nil {
			return nil, fmt.Errorf("running Score plugins: %w", err)
		}
		if keepRaw {
			out.Raw = append(out.Raw, slices.Clone(scores))
		}
		if err := a.normalize(pl, scores); err != nil {
			return nil, err
		}
		for i, s := range scores {
			out.Total[i] += s * pl.weight
		}
		out.Plugins, out.Weights, out.Normalized = append(out.Plugins, pl.Name()), append(out.Weights, pl.weight), append(out.Normalized, scores)
	}
	a.askExtenders(ctx, nodes, out, keepRaw)
	return out, nil
}

func (a *attempt) askScore(pl weighted, nodes []*framework.NodeInfo, scores []int64) error {
	var mu sync.Mutex
	var failed *framework.Status
	a.run.Parallel(len(nodes), func(i int) bool {
		s, st := pl.Score.Score(a.state, a.pod, nodes[i])
		if !st.IsSuccess() {
			mu.Lock()
			failed = st
			mu.Unlock()
			return false
		}
		scores[i] = s
		return true
	})
	if failed != nil {
		return fmt.Errorf("plugin %q failed with: %w", pl.Name(), failed.Err())
	}
	return nil
}

func (a *attempt) normalize(pl weighted, scores []int64) error {
	if n, ok := pl.Score.(framework.NormalizeScore); ok {
		if st := n.NormalizeScore(a.state, a.pod, scores); !st.IsSuccess() {
			return fmt.Errorf("running Normalize on Score plugins: plugin %q failed with: %w", pl.Name(), st.Err())
		}
	}
	for _, s := range scores {
		if s < framework.MinScore || s > framework.MaxScore {
			return fmt.Errorf("plugin %q returns an invalid score %v, it should in the range of [%v, %v] after normalizing", pl.Name(), s, framework.MinScore, framework.MaxScore)
		}
	}
	return nil
}

// askExtenders adds the scores of extenders. Those that fail have no say.
func (a *attempt) askExtenders(ctx context.Context, nodes []*framework.NodeInfo, out *Scores, keep bool) {
	type answer struct {
		scores map[string]int64
		weight int64
	}
	answers := make([]answer, len(a.extenders))
	var wg sync.WaitGroup
	for i, e := range a.extenders {
		if !e.Verbs().Prioritize || !e.Interested(a.pod.Pod) {
			continue
		}
		wg.Go(func() {
			if scores, weight, err := e.Prioritize(ctx, a.pod.Pod, nodes); err == nil {
				answers[i] = answer{scores, weight}
			}
		})
	}
	wg.Wait()
	for i, ans := range answers {
		if ans.scores == nil {
			continue
		}
		row := make([]int64, len(nodes))
		for j, n := range nodes {
			row[j] = ans.scores[n.Name()] * (framework.MaxScore / maxExtenderScore)
			out.Total[j] += row[j] * ans.weight
		}
		if keep {
			out.Plugins, out.Weights = append(out.Plugins, a.extenders[i].Name()), append(out.Weights, ans.weight)
			out.Normalized = append(out.Normalized, row)
		}
	}
}

// best picks a node of the highest score, each with the same chance.
func (c *Core) best(scores []int64) int {
	best, ties := 0, 1
	for i := 1; i < len(scores); i++ {
		switch {
		case scores[i] > scores[best]:
			best, ties = i, 1
		case scores[i] == scores[best]:
			if ties++; c.random.IntN(ties) == 0 {
				best = i
			}
		}
	}
	return best
}

func (c *Core) totals(n int) []int64 {
	if cap(c.total) < n {
		c.total = make([]int64, n)
	}
	c.total = c.total[:n]
	clear(c.total)
	return c.total
}

func (c *Core) row(i, n int) []int64 {
	for len(c.rows) <= i {
		c.rows = append(c.rows, nil)
	}
	if cap(c.rows[i]) < n {
		c.rows[i] = make([]int64, n)
	}
	c.rows[i] = c.rows[i][:n]
	return c.rows[i]
}
