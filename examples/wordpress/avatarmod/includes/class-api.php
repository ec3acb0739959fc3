<?php
/**
 * The HTTP API of avatar-moderation.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** Calls of one connection. */
final class Api {

	private const TIMEOUT_S = 15;

	private string $url;
	private string $key;

	/** With the parts of a connection, see Settings::parse(). */
	public function __construct( array $connection ) {
		$this->url = $connection['url'];
		$this->key = $connection['key'];
	}

	/** The site's; null while none is set. */
	public static function of_site(): ?self {
		$connection = Settings::parse();
		return null === $connection ? null : new self( $connection );
	}

	/** Send a picture. Sending an id again changes nothing and tells its present state. */
	public function send( string $upload_id, string $bytes, string $subject, string $language ): Answer {
		$boundary = 'avatarmod' . bin2hex( random_bytes( 12 ) );
		$fields   = array(
			'upload_id' => $upload_id,
			'subject'   => $subject,
			'language'  => $language,
		);
		$body     = '';
		foreach ( $fields as $name => $value ) {
			$body .= "--$boundary\r\nContent-Disposition: form-data; name=\"$name\"\r\n\r\n$value\r\n";
		}
		$body .= "--$boundary\r\nContent-Disposition: form-data; name=\"image\"; filename=\"avatar\"\r\n"
			. "Content-Type: application/octet-stream\r\n\r\n$bytes\r\n--$boundary--\r\n";
		return $this->call( 'POST', '/v1/uploads', $body, "multipart/form-data; boundary=$boundary" );
	}

	/** Where one upload stands. */
	public function avatar( string $upload_id ): Answer {
		return $this->call( 'GET', '/v1/avatars/' . $upload_id );
	}

	/** What became of uploads since a cursor; of all that are listed where it is empty. */
	public function changes( string $cursor, int $limit = 200 ): Answer {
		return $this->call( 'GET', '/v1/changes?' . http_build_query( array_filter( array( 'since' => $cursor, 'limit' => $limit ) ) ) );
	}

	/** Whether the key may send: what is no upload is refused as such, not for want of the right. */
	public function may_send(): Answer {
		return $this->call( 'POST', '/v1/uploads', '{}', 'application/json' );
	}

	/** One call. */
	private function call( string $method, string $path, string $body = '', string $type = '' ): Answer {
		$answer = wp_remote_request(
			$this->url . $path,
			array(
				'method'      => $method,
				'timeout'     => self::TIMEOUT_S,
				'redirection' => 0,
				'headers'     => array_filter(
					array(
						'X-API-Key'    => $this->key,
						'Content-Type' => $type,
					)
				),
				'body'        => '' === $body ? null : $body,
			)
		);
		if ( is_wp_error( $answer ) ) {
			// Without php-curl it names no server.
			return new Answer( 0, array(), "$this->url: " . $answer->get_error_message() );
		}
		$status = (int) wp_remote_retrieve_response_code( $answer );
		$data   = json_decode( wp_remote_retrieve_body( $answer ), true );
		$error  = '';
		if ( $status < 200 || $status >= 300 ) {
			$error = trim( "HTTP $status " . ( $data['detail'] ?? '' ) );
		} elseif ( ! is_array( $data ) ) {
			$status = 0;
			$error  = __( 'The address answers, but not as avatar-moderation.', 'avatarmod' );
		}
		$wait = (int) wp_remote_retrieve_header( $answer, 'retry-after' );
		return new Answer( $status, is_array( $data ) ? $data : array(), $error, min( max( $wait, 0 ), HOUR_IN_SECONDS ) );
	}
}
