package webhook

import (
	"context"
	"fmt"
	"sync"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission/match"
)

// question is a hook that is asked about a request, and what it said.
type question struct {
	hook   *hook
	about  *encoded
	answer *answer
	err    error
}

// Validate calls all webhooks that match at the same time. If several refuse, the first one in their order is told.
func (p *Validating) Validate(ctx context.Context, a *admission.Attributes) error {
	if match.Exempt(a) {
		return nil
	}
	hooks, err := p.source.hooks(ctx)
	if err != nil || len(hooks) == 0 {
		return err
	}
	asked, err := p.questions(ctx, hooks, a)
	if err != nil || len(asked) == 0 {
		return err
	}
	if ctx.Err() != nil {
		return timedOut()
	}
	p.askAll(ctx, a, asked)
	var first error
	for i, q := range asked {
		q.answer.tell(q.hook, a)
		switch {
		case q.err == nil:
		case p.passOver(q.hook, q.err):
			a.AddAnnotation(fmt.Sprintf("failed-open.validating.webhook.admission.k8s.io/round_0_index_%d", i), q.hook.name)
			p.metrics.failOpen.WithLabelValues(q.hook.name, p.source.stage).Inc()
		case first == nil:
			first = forClient(q.err)
		default:
			p.log.Info("refused by another webhook, too", hookField(q.hook), zap.Error(q.err))
		}
	}
	return first
}

func (p *Validating) questions(ctx context.Context, hooks []*hook, a *admission.Attributes) (out []*question, err error) {
	views, made := p.matcher.Views(a), map[*match.View]*encoded{}
	for _, h := range hooks {
		view, err := p.asks(ctx, h, a, views)
		if err != nil {
			return nil, err
		}
		if view == nil {
			continue
		}
		if made[view] == nil {
			if made[view], err = encode(view); err != nil {
				return nil, apierrors.NewInternalError(err)
			}
		}
		out = append(out, &question{hook: h, about: made[view]})
	}
	return out, nil
}

func (p *Validating) askAll(ctx context.Context, a *admission.Attributes, asked []*question) {
	var wait sync.WaitGroup
	for _, q := range asked[1:] {
		wait.Go(func() { p.ask(ctx, a, q) })
	}
	p.ask(ctx, a, asked[0])
	wait.Wait()
}

func (p *Validating) ask(ctx context.Context, a *admission.Attributes, q *question) {
	defer func() { // it may be on a goroutine of its own, where a panic would end the process
		if r := recover(); r != nil {
			q.err = apierrors.NewInternalError(fmt.Errorf("ValidatingAdmissionWebhook/%v has panicked: %v", q.hook.name, r))
			p.log.Error("a call of a webhook panicked", hookField(q.hook), zap.Any("panic", r), zap.Stack("stack"))
		}
	}()
	start := p.clock.Now()
	q.answer, q.err = p.call(ctx, q.hook, a, q.about)
	p.metrics.called(q.hook, p.source.stage, a.Operation, p.clock.Now().Sub(start), q.err)
}
