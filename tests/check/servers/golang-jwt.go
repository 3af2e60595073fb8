// golang-jwt 4 as Debian packages it. Debian has no keyfunc, so the JWKS is read here: again after ten minutes or for a
// new kid.
package main

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt"
)

var (
	mutex   sync.Mutex
	keys    map[string]*rsa.PublicKey
	fetched time.Time
)

func fetch() error {
	response, err := http.Get(os.Getenv("JWKS_URL"))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var document struct{ Keys []struct{ Kty, Kid, N, E string } }
	if err := json.NewDecoder(response.Body).Decode(&document); err != nil {
		return err
	}
	keys, fetched = map[string]*rsa.PublicKey{}, time.Now()
	for _, key := range document.Keys {
		n, _ := base64.RawURLEncoding.DecodeString(key.N)
		e, _ := base64.RawURLEncoding.DecodeString(key.E)
		if key.Kty == "RSA" {
			keys[key.Kid] = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
		}
	}
	return nil
}

func keyfunc(token *jwt.Token) (interface{}, error) {
	mutex.Lock()
	defer mutex.Unlock()
	kid, _ := token.Header["kid"].(string)
	if age := time.Since(fetched); age > 10*time.Minute || (keys[kid] == nil && age > time.Second) {
		if err := fetch(); err != nil {
			return nil, err
		}
	}
	if keys[kid] == nil {
		return nil, errors.New("unknown kid")
	}
	return keys[kid], nil
}

func main() {
	http.HandleFunc("/orders", func(w http.ResponseWriter, r *http.Request) {
		scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		claims := &jwt.RegisteredClaims{}
		_, err := jwt.ParseWithClaims(text, claims, keyfunc, jwt.WithValidMethods([]string{"RS256"}))
		if !strings.EqualFold(scheme, "Bearer") || err != nil || !claims.VerifyIssuer(os.Getenv("ISSUER"), true) ||
			!claims.VerifyAudience(os.Getenv("AUDIENCE"), true) || claims.Subject != os.Getenv("SUBJECT") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Write([]byte("OK"))
	})
	http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil)
}
