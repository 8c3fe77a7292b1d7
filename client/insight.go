package client

import (
	"context"

	"github.com/keelson-io/keelson/api/insightpb"
)

// LookResponse is what a member tells of itself.
type LookResponse = insightpb.LookResponse

// Look asks the member at endpoint what it does and how it fares, with at most so many prefixes of keys (0: 20, negative: none).
// A member that is not Keelson's answers with the code Unimplemented.
func (c *Client) Look(ctx context.Context, endpoint string, prefixes int) (*LookResponse, error) {
	resp := new(LookResponse)
	if err := c.direct(ctx, endpoint, insightpb.Insight_Look_FullMethodName, &insightpb.LookRequest{Prefixes: int32(prefixes)}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}
