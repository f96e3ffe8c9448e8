package api

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// snapshotMax bounds a snapshot in bytes: a state and a ledger, each as long as the node reads them.
const snapshotMax = 512 << 20

// snapshot answers GET /v1/snapshot with octets instead of JSON. They are collected first, so that a failure can still be told.
func snapshot(w http.ResponseWriter, r *http.Request, b Backend) {
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	var body bytes.Buffer
	if err := b.Snapshot(ctx, &body); err != nil {
		writeFailure(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	rc := http.NewResponseController(w)
	for body.Len() > 0 { // the deadline is for each part: a long snapshot to a slow disk is no fault
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := w.Write(body.Next(1 << 20)); err != nil {
			return
		}
	}
}

// Snapshot writes the node's snapshot. Its reader tells whether it is whole.
func (c *Client) Snapshot(ctx context.Context, w io.Writer) error {
	r, err := c.send(ctx, http.MethodGet, "/v1/snapshot", nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	n, err := io.Copy(w, io.LimitReader(r.Body, snapshotMax+1))
	if err != nil {
		return c.broken(ctx, err)
	}
	if n > snapshotMax {
		return &Failure{Class: localapi.Failed, What: "the node's snapshot is too large for a backup"}
	}
	return nil
}
