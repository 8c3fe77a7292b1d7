package client

import (
	"context"

	"github.com/keelson-io/keelson/api/integritypb"
)

// RefetchResponse says what Refetch did.
type RefetchResponse = integritypb.RefetchResponse

// Refetch makes the member at endpoint replace its data by those of a member that agrees with the majority, and waits for the
// end of that, which may take as long as a copy of the database does. It is for a member of Keelson.
func (c *Client) Refetch(ctx context.Context, endpoint string) (*RefetchResponse, error) {
	resp := new(RefetchResponse)
	if err := c.direct(ctx, endpoint, integritypb.Integrity_Refetch_FullMethodName, &integritypb.RefetchRequest{}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}
