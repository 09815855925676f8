package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	metadataCache = "/opt/azure/containers/imds_instance_metadata_cache.json"
	maxBody       = 1 << 20
)

// fetchMetadata reads the instance metadata and keeps it.
func (r *runner) fetchMetadata(ctx context.Context) error {
	p := policy{tries: 10, sleep: 5 * time.Second, timeout: 5 * time.Second}
	var body []byte
	err := r.retry(ctx, p, "instance metadata", func(ctx context.Context) error {
		status, data, err := r.imds(ctx, p, "/metadata/instance?api-version=2021-02-01")
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("answered %d: %s", status, data)
		}
		if !json.Valid(data) {
			return errors.New("the answer is not JSON")
		}
		body = data
		return nil
	})
	if err != nil {
		return fail(IMDSFetch, "%w", err)
	}
	return r.writeFiles(map[string]string{metadataCache: string(body)}, 0o600)
}

// imds asks the instance metadata service, never through a proxy.
func (r *runner) imds(ctx context.Context, p policy, path string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.connectTimeout(p)+time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.env.IMDS+path, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Metadata", "true")
	return do(r.transport(p), req)
}

func do(transport *http.Transport, req *http.Request) (status int, body []byte, err error) {
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody))
	return resp.StatusCode, body, err
}
