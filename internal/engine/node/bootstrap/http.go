package bootstrap

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
)

func tlsConfig(roots *x509.CertPool) *tls.Config {
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

func doHeader(transport *http.Transport, req *http.Request) (status int, header http.Header, body []byte, err error) {
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody))
	return resp.StatusCode, resp.Header, body, err
}
