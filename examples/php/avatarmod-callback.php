<?php
/**
 * Receive verdicts of avatar-moderation. One file, no dependencies, PHP 7.2 and newer.
 *
 *     require 'avatarmod-callback.php';
 *     $event = avatarmod_verify(file_get_contents('php://input'), avatarmod_headers(), $secret);
 *     if ($event === null) { http_response_code(401); exit; }
 *     if ($event['type'] === 'avatar.moderated') {
 *         // $event['data']: upload_id, state (approved, blocked, held, rejected...), seq.
 *         // Act first; then remember seq, and pass over what is not newer. An id may not be yours.
 *     }
 *     echo $event['data']['nonce'] ?? '';  // the answer to `avatarmod callbacks test`
 *
 * In WordPress use the plugin instead, see examples/wordpress.
 */

/** Seconds that the clocks of both machines may differ. Source: Standard Webhooks 1.0. */
const AVATARMOD_TOLERANCE_S = 300;

/**
 * @param string       $body    The request's body, byte for byte.
 * @param array        $headers Header name in lower case => value.
 * @param string|array $secrets One or several whsec_... secrets (while one is being replaced).
 * @param int|null     $now     Unix time; for tests.
 * @return array|null  The callback {type, timestamp, data}, or null when it must not be trusted.
 */
function avatarmod_verify($body, array $headers, $secrets, $now = null)
{
    $now = $now === null ? time() : $now;
    foreach (array('webhook-id', 'webhook-timestamp', 'webhook-signature') as $name) {
        if (!isset($headers[$name]) || !is_string($headers[$name]) || $headers[$name] === '') {
            return null;
        }
    }
    $timestamp = $headers['webhook-timestamp'];
    if (!ctype_digit($timestamp) || abs($now - (int) $timestamp) > AVATARMOD_TOLERANCE_S) {
        return null;
    }
    $signed = $headers['webhook-id'] . '.' . $timestamp . '.' . $body;
    foreach ((array) $secrets as $secret) {
        $key = base64_decode(substr($secret, strlen('whsec_')), true);
        if (strpos($secret, 'whsec_') !== 0 || $key === false || strlen($key) < 24) {
            continue;
        }
        $expected = base64_encode(hash_hmac('sha256', $signed, $key, true));
        foreach (explode(' ', $headers['webhook-signature']) as $signature) {
            if (strpos($signature, 'v1,') === 0 && hash_equals($expected, substr($signature, 3))) {
                $event = json_decode($body, true);
                return isset($event['type']) && is_array($event['data'] ?? null) ? $event : null;
            }
        }
    }
    return null;
}

/** The headers of this request, names in lower case. */
function avatarmod_headers()
{
    $headers = array();
    foreach ($_SERVER as $name => $value) {
        if (strpos($name, 'HTTP_') === 0) {
            $headers[strtolower(strtr(substr($name, 5), '_', '-'))] = $value;
        }
    }
    return $headers;
}
