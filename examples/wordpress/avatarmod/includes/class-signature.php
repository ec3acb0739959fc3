<?php
/**
 * Verifies callbacks.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** Standard Webhooks 1.0. */
final class Signature {

	/** Seconds that the clocks of both machines may differ. Source: Standard Webhooks 1.0. */
	private const TOLERANCE_S = 300;

	/**
	 * Whether a callback is from whoever knows the secret.
	 *
	 * @param string $body      Byte for byte as it came.
	 * @param string $id        Of the header webhook-id; the timestamp and signatures likewise.
	 * @param string $timestamp Seconds since the epoch.
	 * @param string $sent      Signatures, separated by spaces.
	 * @param string $secret    `whsec_...`.
	 */
	public static function holds( string $body, string $id, string $timestamp, string $sent, string $secret ): bool {
		$key = base64_decode( substr( $secret, strlen( 'whsec_' ) ), true ); // phpcs:ignore WordPress.PHP.DiscouragedPHPFunctions
		if ( ! ctype_digit( $timestamp ) || abs( time() - (int) $timestamp ) > self::TOLERANCE_S || '' === $id ) {
			return false;
		}
		if ( 0 !== strpos( $secret, 'whsec_' ) || false === $key || strlen( $key ) < 24 ) {
			return false;
		}
		$expected = 'v1,' . base64_encode( hash_hmac( 'sha256', "$id.$timestamp.$body", $key, true ) ); // phpcs:ignore WordPress.PHP.DiscouragedPHPFunctions
		foreach ( explode( ' ', $sent ) as $signature ) {
			if ( hash_equals( $expected, $signature ) ) {
				return true;
			}
		}
		return false;
	}
}
