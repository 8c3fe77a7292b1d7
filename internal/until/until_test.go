package until

import (
	"context"
	"testing"
	"testing/synctest"
)

func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
		ch := make(chan struct{})
		first, cancel := Closed(t.Context(), ch)
		defer cancel()
		parent, end := context.WithCancel(t.Context())
		second, cancelSecond := Closed(parent, ch)
		defer cancelSecond()
		third, cancelThird := Closed(t.Context(), ch)
		end()
		cancelThird()
		synctest.Wait()
		if first.Err() != nil || second.Err() == nil || third.Err() == nil {
			t.Fatal(first.Err(), second.Err(), third.Err())
		}
		close(ch)
		synctest.Wait()
		if first.Err() == nil {
			t.Fatal("the channel is closed, and the context goes on")
		}
	})
}
